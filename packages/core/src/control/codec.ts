import { KvxError } from '@kvx/contract'
import * as cbor from './cbor.ts'

/** A message as it travels: a CBOR map with text keys. */
export type Message = Readonly<Record<string, unknown>>

/** Of a message, and of a frame, which is one message after the other and nothing between them. */
export const maxMessageBytes = 4 * 1024 * 1024
/** Bounds what one frame of tiny messages can make the receiver answer before it looks at anything else. */
export const maxFrameMessages = 1_024
const maxDepth = 16
/** Bounds what a small message of many tiny values can make the decoder allocate. */
export const maxItems = 65_536

/**
 * Encodes a message of plain data: objects, arrays, strings, `Uint8Array`, numbers, booleans, null,
 * and bigints from −2^64 to 2^64 − 1, which arrive as bigints again.
 *
 * @throws KvxError `ERR_KVX_OVER_LIMIT` when it is larger than `limit` bytes, or holds more values than `decodeFrame` takes
 */
export function encodeMessage(message: Message, limit = maxMessageBytes): Uint8Array {
  const encoded = cbor.encode(message)
  if (encoded.length > limit) {
    throw overLimit(`A message of ${encoded.length} bytes exceeds the limit of ${limit} bytes.`)
  }
  // A value takes a byte at least, so most messages need not be walked.
  const items = encoded.length > maxItems ? walk(encoded, 0, Infinity).items : 0
  if (items > maxItems) {
    throw overLimit(
      `A message of ${items} values exceeds the limit of ${maxItems} values (it has ${encoded.length} bytes of at most ${limit}).`,
    )
  }
  return encoded
}

/**
 * The messages of a frame, one by one, in their order. Byte strings are views of `frame`.
 *
 * Throws at the first that is no message: where the next one would begin is not known then, so the rest of the
 * frame is lost. Those before it have been given out.
 *
 * @throws KvxError `ERR_KVX_PROTOCOL`, and nothing else
 */
export function* decodeFrame(frame: Uint8Array, limit = maxMessageBytes): Generator<Message> {
  if (frame.length > limit) {
    throw malformed(`it has ${frame.length} bytes, the limit is ${limit}`)
  }
  let start = 0
  let messages = 0
  do {
    if (++messages > maxFrameMessages)
      throw malformed(`its frame holds more than ${maxFrameMessages} messages`)
    const { end } = walk(frame, start, maxItems)
    yield decode(frame.subarray(start, end))
    start = end
  } while (start < frame.length)
}

function decode(encoded: Uint8Array): Message {
  try {
    return cbor.decode(encoded) as Message
  } catch (cause) {
    throw malformed('it is no valid CBOR', cause)
  }
}

/** Of `walk`, which is synchronous: the values still to come at each depth, and which depths are maps. */
const remaining = new Float64Array(maxDepth + 1)
const isMap = new Uint8Array(maxDepth + 1)

/**
 * Walks over the message that begins at `start`, without allocating: one map with text keys, complete, not
 * too deep, not too many values, lengths given in advance, and no tags, which stand for dates, regular expressions and the
 * like in other decoders. Tells where it ends, and how many values it holds.
 */
function walk(frame: Uint8Array, start: number, most: number): { end: number; items: number } {
  const { length } = frame
  let position = start
  let items = 0
  let depth = 0
  remaining[0] = 1
  isMap[0] = 0
  for (;;) {
    while (depth >= 0 && remaining[depth] === 0) depth -= 1
    if (depth < 0) return { end: position, items }
    const left = remaining[depth] ?? 0
    // Of a map, keys and values both count.
    const key = isMap[depth] === 1 && left % 2 === 0
    remaining[depth] = left - 1
    items += 1
    if (items > most) throw malformed(`it holds more than ${most} values`)
    const initial = frame[position]
    if (initial === undefined) throw malformed('it ends too early')
    position += 1
    const major = initial >> 5
    const short = initial & 0x1f
    if (short > 27) throw malformed('it holds a value of unknown or open length')
    const width = short < 24 ? 0 : 1 << (short - 24)
    if (position + width > length) throw malformed('it ends too early')
    const argument = short < 24 ? short : readUint(frame, position, width)
    position += width

    if (depth === 0 && major !== 5) throw malformed('it is not a map')
    if (key && major !== 3) throw malformed('a key is not text')
    if (major === 2 || major === 3) {
      if (argument > length - position) throw malformed('it ends too early')
      position += argument
    } else if (major === 4 || major === 5) {
      const values = major === 5 ? argument * 2 : argument
      if (values > length - position) throw malformed('it ends too early')
      if (depth >= maxDepth) throw malformed(`it is nested deeper than ${maxDepth} levels`)
      depth += 1
      remaining[depth] = values
      isMap[depth] = major === 5 ? 1 : 0
    } else if (major === 6) {
      throw malformed('it holds a tagged value')
    } else if (major === 7 && (short < 20 || short === 24)) {
      throw malformed('it holds an unknown simple value')
    }
  }
}

/** Big-endian. Above 2^53 it is not exact, and larger than any length. */
function readUint(frame: Uint8Array, position: number, width: number): number {
  let value = 0
  for (let i = position; i < position + width; i++) value = value * 256 + (frame[i] ?? 0)
  return value
}

function overLimit(text: string): KvxError {
  return new KvxError('ERR_KVX_OVER_LIMIT', text)
}

function malformed(why: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_PROTOCOL', `A malformed message arrived: ${why}.`, { cause })
}
