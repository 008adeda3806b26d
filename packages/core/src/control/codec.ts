import { Encoder } from 'cbor-x'
import { KvxError } from '../backend/errors.ts'

/** A message as it travels: a CBOR map with text keys. */
export type Message = Readonly<Record<string, unknown>>

export const maxMessageBytes = 4 * 1024 * 1024
const maxDepth = 16
/** Bounds what a small frame of many tiny values can make the decoder allocate. */
const maxItems = 65_536

// Byte strings as plain CBOR byte strings, not as tagged typed arrays: decoding refuses every tag.
const cbor = new Encoder({ useRecords: false, mapsAsObjects: true, tagUint8Array: false })

/**
 * Encodes a message of plain data: objects, arrays, strings, `Uint8Array`, numbers, booleans, null,
 * and bigints from −2^64 to 2^64 − 1, which arrive as bigints again.
 *
 * @throws KvxError `ERR_KVX_OVER_LIMIT` when it is larger than `limit` bytes
 */
export function encodeMessage(message: Message, limit = maxMessageBytes): Uint8Array {
  const frame = cbor.encode(message)
  if (frame.length > limit) {
    throw new KvxError(
      'ERR_KVX_OVER_LIMIT',
      `A message of ${frame.length} bytes exceeds the limit of ${limit} bytes.`,
    )
  }
  return frame
}

/**
 * Decodes one message. Byte strings are views of `frame`.
 *
 * @throws KvxError `ERR_KVX_PROTOCOL`, and nothing else, for whatever is not a message
 */
export function decodeMessage(frame: Uint8Array, limit = maxMessageBytes): Message {
  if (frame.length > limit) {
    throw malformed(`it has ${frame.length} bytes, the limit is ${limit}`)
  }
  checkPlain(frame)
  try {
    return cbor.decode(frame) as Message
  } catch (cause) {
    throw malformed('it is no valid CBOR', cause)
  }
}

/**
 * Walks over the frame without allocating: one map with text keys, complete, nothing behind it, not
 * too deep, not too many values, lengths given in advance, and no tags: cbor-x would make dates,
 * regular expressions, errors or typed arrays of them.
 */
function checkPlain(frame: Uint8Array): void {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  // Values still to come at each depth; of a map, keys and values both count.
  const remaining = [1]
  const isMap = [false]
  let position = 0
  let items = 0
  for (;;) {
    while (remaining[remaining.length - 1] === 0) {
      remaining.pop()
      isMap.pop()
    }
    const depth = remaining.length - 1
    if (depth < 0) break
    const key = isMap[depth] === true && (remaining[depth] ?? 0) % 2 === 0
    remaining[depth] = (remaining[depth] ?? 0) - 1
    items += 1
    if (items > maxItems) throw malformed(`it holds more than ${maxItems} values`)
    if (position >= frame.length) throw malformed('it ends too early')

    const initial = view.getUint8(position)
    position += 1
    const major = initial >> 5
    const short = initial & 0x1f
    const width = short < 24 ? 0 : 2 ** (short - 24)
    if (short > 27) throw malformed('it holds a value of unknown or open length')
    if (position + width > frame.length) throw malformed('it ends too early')
    const argument = short < 24 ? short : readUint(view, position, width)
    position += width

    if (depth === 0 && major !== 5) throw malformed('it is not a map')
    if (key && major !== 3) throw malformed('a key is not text')
    if (major === 2 || major === 3) {
      if (argument > frame.length - position) throw malformed('it ends too early')
      position += argument
    } else if (major === 4 || major === 5) {
      const values = major === 5 ? argument * 2 : argument
      if (values > frame.length - position) throw malformed('it ends too early')
      if (depth >= maxDepth) throw malformed(`it is nested deeper than ${maxDepth} levels`)
      remaining.push(values)
      isMap.push(major === 5)
    } else if (major === 6) {
      throw malformed('it holds a tagged value')
    } else if (major === 7 && (short < 20 || short === 24)) {
      throw malformed('it holds an unknown simple value')
    }
  }
  if (position !== frame.length) throw malformed('bytes follow its end')
}

function readUint(view: DataView, position: number, width: number): number {
  if (width === 1) return view.getUint8(position)
  if (width === 2) return view.getUint16(position)
  if (width === 4) return view.getUint32(position)
  return Number(view.getBigUint64(position))
}

function malformed(why: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_PROTOCOL', `A malformed message arrived: ${why}.`, { cause })
}
