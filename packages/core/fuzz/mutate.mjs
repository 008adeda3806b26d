/** Makes frames of messages, one or several: as they are, with other values in them, with damaged bytes, or of noise alone. */
import { encodeMessage } from '../dist/control/codec.js'

const numbers = [
  0,
  1,
  2,
  3,
  4,
  7,
  8,
  15,
  16,
  17,
  63,
  64,
  65,
  255,
  256,
  4095,
  4096,
  65_535,
  65_536,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 53 - 2,
  2 ** 53 - 1,
  2 ** 53,
  1e300,
  -1,
  -2,
  -(2 ** 31),
  -(2 ** 53),
  0.5,
  1.5,
  -0.5,
  NaN,
  Infinity,
  -Infinity,
]
const bigints = [0n, 1n, 2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n, -1n, -(2n ** 64n)]
const texts = [
  '',
  'a',
  'kv',
  'mamba',
  'k',
  'v',
  'latent',
  'state',
  'tokens',
  'request',
  'parked',
  'paired',
  'complete',
  'failed',
  'over',
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  'length',
  'ERR_KVX_STALE',
  'ERR_KVX_ABORTED',
  'ERR_KVX_INTERNAL',
  'ERR_KVX_NONE',
  'transfer',
  '0'.repeat(32),
  'f'.repeat(32),
  'F'.repeat(32),
  'g'.repeat(32),
  '0'.repeat(31),
  '0'.repeat(33),
  'x'.repeat(200),
  'x'.repeat(201),
  'x'.repeat(2_000),
  'x'.repeat(2_001),
  '\u0000',
  '\ud800',
  '😀'.repeat(100),
  '../../etc/passwd',
  'tcp://127.0.0.1:1',
  'tcp://[::1]:0',
]
const lengths = [0, 1, 3, 4, 5, 8, 12, 15, 16, 17, 60, 64, 68, 1_000]
/** Those at the limits are costly, and rare. */
const longLengths = [4_096, 4_097, 16_384, 16_385, 65_536, 65_537, 200_000]
const someLength = (random) => random.pick(random.chance(0.03) ? longLengths : lengths)

/**
 * @param {import('./random.mjs').Random} random
 * @param {readonly object[]} templates messages that are valid at this moment
 * @returns {Uint8Array} a frame
 */
export function makeFrame(random, templates) {
  if (!random.chance(0.1)) return makePart(random, templates)
  const parts = Array.from({ length: 2 + random.below(5) }, () => makePart(random, templates))
  return new Uint8Array(Buffer.concat(parts))
}

function makePart(random, templates) {
  const kind = random.below(100)
  if (kind < 4) return noise(random)
  const template = random.pick(templates)
  // As it is: hostile only by where and when it arrives.
  if (kind < 30) return encoded(template)
  if (kind >= 85) return damage(random, encoded(template), templates)
  const message = clone(template)
  for (let edits = 1 + random.below(3); edits > 0; edits--) edit(random, message, templates)
  const frame = encode(message)
  return kind < 70 ? frame : damage(random, frame, templates)
}

const frames = new WeakMap()

function encoded(template) {
  let frame = frames.get(template)
  if (frame === undefined) {
    frame = encode(template)
    frames.set(template, frame)
  }
  return frame
}

function clone(value) {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return value
  if (Array.isArray(value)) return value.map(clone)
  const copy = {}
  for (const key of Object.keys(value)) put(copy, key, clone(value[key]))
  return copy
}

/** Also under the name `__proto__`, which an assignment would not take for a field. */
function put(holder, key, value) {
  if (key !== '__proto__') holder[key] = value
  else
    Object.defineProperty(holder, key, {
      value,
      writable: true,
      enumerable: true,
      configurable: true,
    })
}

function encode(message) {
  try {
    // A plain array: `slice` of a Buffer would not copy.
    const frame = encodeMessage(message, Infinity)
    return new Uint8Array(frame.buffer, frame.byteOffset, frame.length)
  } catch {
    // A number that CBOR has no form for: a bigint beyond 64 bits after an off-by-one.
    return new Uint8Array([0xa0])
  }
}

function noise(random) {
  const bytes = random.bytes(random.pick([0, 1, 2, 3, 8, 40, 200, 1_000]))
  // Half of it begins as a map.
  if (bytes.length > 0 && random.chance(0.5)) bytes[0] = 0xa0 + random.below(24)
  return bytes
}

/** Every place of a value inside a message, as its holder and its key. */
function places(value, found = []) {
  for (const key of Object.keys(value)) {
    found.push([value, key])
    const inner = value[key]
    if (typeof inner === 'object' && inner !== null && !ArrayBuffer.isView(inner))
      places(inner, found)
  }
  return found
}

function edit(random, message, templates) {
  const all = places(message)
  if (all.length === 0) return
  // The fields of the message itself as often as all those of its cache.
  const [holder, key] = random.chance(0.5)
    ? [message, random.pick(Object.keys(message))]
    : random.pick(all)
  const value = holder[key]
  switch (random.below(8)) {
    case 0:
      if (Array.isArray(holder)) holder.splice(Number(key), 1)
      else delete holder[key]
      return
    case 1:
      put(holder, key, anything(random))
      return
    case 2: {
      // The value of another place, of this message or another.
      const [from, name] = random.pick(places(random.pick(templates)))
      put(holder, key, clone(from[name]))
      return
    }
    case 3:
      // One more field, or one more element.
      if (Array.isArray(holder)) holder.push(clone(random.pick(holder)))
      else put(holder, random.pick(texts), anything(random))
      return
    case 4: {
      const [other, name] = random.pick(all)
      const held = other[name]
      if (typeof held !== 'object' && typeof value !== 'object') {
        put(other, name, value)
        put(holder, key, held)
      }
      return
    }
    default:
      put(holder, key, near(random, value))
  }
}

/** A value of the same type that may just fit, or just not. */
function near(random, value) {
  switch (typeof value) {
    case 'number':
      return random.chance(0.5) ? value + random.pick([-1, 1, -4, 4, 0.5]) : random.pick(numbers)
    case 'bigint':
      return random.chance(0.5) ? value + random.pick([-1n, 1n]) : random.pick(bigints)
    case 'string':
      return random.chance(0.5)
        ? random.pick(texts)
        : value.slice(0, -1) + random.pick(['', '0', 'a', 'é'])
    case 'boolean':
      return !value
    default:
  }
  if (value instanceof Uint8Array) {
    if (value.length === 0 || random.chance(0.3)) return random.bytes(someLength(random))
    const copy = value.slice()
    if (random.chance(0.5)) copy[random.below(copy.length)] = random.word()
    // One index twice.
    else if (copy.length >= 8) copy.copyWithin(4, 0, 4)
    return random.chance(0.8) ? copy : copy.subarray(0, random.below(copy.length))
  }
  return anything(random)
}

function anything(random) {
  switch (random.below(9)) {
    case 0:
      return random.pick(numbers)
    case 1:
      return random.pick(bigints)
    case 2:
      return random.pick(texts)
    case 3:
      return random.bytes(someLength(random))
    case 4:
      return random.chance(0.5)
    case 5:
      return null
    case 6:
      return { name: random.pick(texts), [random.pick(texts)]: random.pick(numbers) }
    case 7:
      return new Array(random.pick([0, 1, 2, 100])).fill(random.pick(numbers))
    default:
      return nested(random.pick([1, 10, 14, 15, 16, 17, 40]))
  }
}

function nested(depth) {
  let value = 0
  for (let i = 0; i < depth; i++) value = [value]
  return value
}

/** Lengths that promise more than there is, and forms that a frame must not have. */
const headers = [
  'bf',
  '9f',
  '5f',
  '7f',
  'ff',
  'f7',
  'f8ff',
  'fb7ff8000000000000',
  'c0',
  'c11a5f5e1000',
  'd81b8266526567457870612b',
  'd9df57',
  '5a7fffffff',
  '5bffffffffffffffff',
  '7a7fffffff',
  '9a7fffffff',
  '9bffffffffffffffff',
  'ba7fffffff',
  'bbffffffffffffffff',
  '1bffffffffffffffff',
  '3bffffffffffffffff',
  '695f5f70726f746f5f5f',
  '1c',
  '80',
  'a0',
  '40',
  '60',
].map((hex) => Buffer.from(hex, 'hex'))

function damage(random, frame, templates) {
  let bytes = frame
  for (let edits = 1 + random.below(3); edits > 0; edits--) {
    const at = random.below(bytes.length + 1)
    switch (random.below(9)) {
      case 0:
        bytes = bytes.subarray(0, at)
        break
      case 1: {
        const copy = bytes.slice()
        if (at < copy.length) copy[at] ^= 1 << random.below(8)
        bytes = copy
        break
      }
      case 2: {
        const copy = bytes.slice()
        if (at < copy.length) copy[at] = random.word()
        bytes = copy
        break
      }
      case 3:
        bytes = join(bytes.subarray(0, at), random.pick(headers), bytes.subarray(at))
        break
      case 4:
        bytes = join(
          bytes.subarray(0, at),
          random.pick(headers),
          bytes.subarray(at + random.below(12)),
        )
        break
      case 5:
        bytes = join(bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(8)))
        break
      case 6:
        bytes = join(bytes, bytes.subarray(at))
        break
      case 7: {
        // The beginning of one message and the end of another.
        const other = encoded(random.pick(templates))
        bytes = join(bytes.subarray(0, at), other.subarray(random.below(other.length)))
        break
      }
      default:
        bytes = repeated(random, bytes, templates)
    }
  }
  return bytes
}

/** A map with a field that it has already: the second value is another message's. */
function repeated(random, bytes, templates) {
  const pairs = (bytes[0] ?? 0) - 0xa0
  if (pairs < 1 || pairs > 22) return bytes
  const other = random.pick(templates)
  const field = random.pick(Object.keys(other))
  const pair = encode({ [field]: random.chance(0.5) ? other[field] : anything(random) })
  const copy = join(bytes, pair.subarray(1))
  copy[0] += 1
  return copy
}

function join(...parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
