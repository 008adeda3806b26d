/**
 * CBOR (RFC 8949) of plain data, in its shortest form: objects, arrays, strings, `Uint8Array`, numbers, booleans, null, undefined and
 * bigints. A number of at most 32 bits travels as an integer, every other as a double; a bigint always takes 64 bits, by which it is known
 * when it arrives.
 */

/** Grows with the largest value, and starts anew once a huge one has been handed out. */
let target: Buffer = Buffer.allocUnsafeSlow(16_384)
let end = 0

/** A result of so many bytes is not copied out: it keeps the buffer, and the next value gets a new one. */
const hugeBytes = 262_144

/**
 * @returns bytes that nothing writes to any more
 * @throws TypeError for a function or a symbol, RangeError for a bigint outside of −2^64 … 2^64 − 1
 */
export function encode(value: unknown): Buffer {
  end = 0
  write(value)
  if (end < hugeBytes) {
    const copy = Buffer.allocUnsafe(end)
    target.copy(copy, 0, 0, end)
    return copy
  }
  const encoded = target.subarray(0, end)
  target = Buffer.allocUnsafeSlow(16_384)
  return encoded
}

function reserve(bytes: number): void {
  if (end + bytes <= target.length) return
  const larger = Buffer.allocUnsafeSlow(Math.max(target.length * 2, end + bytes))
  target.copy(larger, 0, 0, end)
  target = larger
}

function write(value: unknown): void {
  switch (typeof value) {
    case 'string':
      writeText(value)
      break
    case 'number':
      writeNumber(value)
      break
    case 'bigint':
      writeBigInt(value)
      break
    case 'boolean':
      writeByte(value ? 0xf5 : 0xf4)
      break
    case 'undefined':
      writeByte(0xf7)
      break
    case 'object':
      if (value === null) writeByte(0xf6)
      else writeObject(value)
      break
    default:
      throw new TypeError(`A ${typeof value} cannot be sent.`)
  }
}

function writeByte(byte: number): void {
  reserve(1)
  target[end++] = byte
}

/** A major type and its argument, which is less than 2^32. */
function writeHead(major: number, argument: number): void {
  reserve(5)
  const type = major << 5
  if (argument < 24) {
    target[end++] = type | argument
  } else if (argument < 0x100) {
    target[end++] = type | 24
    target[end++] = argument
  } else if (argument < 0x1_0000) {
    target[end++] = type | 25
    end = target.writeUInt16BE(argument, end)
  } else {
    target[end++] = type | 26
    end = target.writeUInt32BE(argument, end)
  }
}

function writeNumber(value: number): void {
  if (Number.isInteger(value) && value >= -(2 ** 32) && value < 2 ** 32) {
    if (value < 0) writeHead(1, -1 - value)
    else writeHead(0, value)
    return
  }
  writeByte(0xfb)
  reserve(8)
  end = target.writeDoubleBE(value, end)
}

function writeBigInt(value: bigint): void {
  writeByte(value < 0n ? 0x3b : 0x1b)
  reserve(8)
  end = target.writeBigUInt64BE(value < 0n ? -1n - value : value, end)
}

/** Up to so many characters a loop is faster than a call out of JavaScript. */
const shortText = 48

function writeText(text: string): void {
  if (text.length <= shortText && writeAscii(text)) return
  const bytes = Buffer.byteLength(text)
  writeHead(3, bytes)
  reserve(bytes)
  target.write(text, end)
  end += bytes
}

/** False, with nothing written, when a character is none of ASCII. */
function writeAscii(text: string): boolean {
  const before = end
  writeHead(3, text.length)
  reserve(text.length)
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code >= 0x80) {
      end = before
      return false
    }
    target[end++] = code
  }
  return true
}

function writeObject(value: object): void {
  if (value instanceof Uint8Array) {
    writeHead(2, value.length)
    reserve(value.length)
    target.set(value, end)
    end += value.length
  } else if (Array.isArray(value)) {
    writeHead(4, value.length)
    for (const item of value) write(item)
  } else {
    const map = value as Record<string, unknown>
    const keys = Object.keys(map)
    writeHead(5, keys.length)
    for (const key of keys) {
      writeText(key)
      write(map[key])
    }
  }
}

/** Of `decode`, which is synchronous. */
let source: Buffer = Buffer.alloc(0)
let position = 0

/**
 * @param encoded one value that `walk` of codec.ts has let through: complete, without tags, open lengths or deep nesting, keys being text.
 *   Byte strings of the result are views of it; a key `__proto__` becomes `__proto_`.
 */
export function decode(encoded: Uint8Array): unknown {
  source = Buffer.from(encoded.buffer, encoded.byteOffset, encoded.length)
  position = 0
  return read()
}

function read(): unknown {
  const initial = source[position++]!
  const major = initial >> 5
  const short = initial & 0x1f
  if (major === 7) return readSimple(short)
  if (major < 2 && short === 27) {
    const value = source.readBigUInt64BE(skip(8))
    return major === 0 ? value : -1n - value
  }
  const argument = readArgument(short)
  switch (major) {
    case 0:
      return argument
    case 1:
      return -1 - argument
    case 2:
      return source.subarray(position, (position += argument))
    case 3:
      return readText(argument)
    case 4:
      return readArray(argument)
    default:
      return readMap(argument)
  }
}

/** Where the next bytes begin, which are taken. */
function skip(bytes: number): number {
  position += bytes
  return position - bytes
}

function readArgument(short: number): number {
  switch (short) {
    case 24:
      return source.readUInt8(skip(1))
    case 25:
      return source.readUInt16BE(skip(2))
    case 26:
      return source.readUInt32BE(skip(4))
    case 27:
      return Number(source.readBigUInt64BE(skip(8)))
    default:
      return short
  }
}

function readSimple(short: number): unknown {
  switch (short) {
    case 20:
      return false
    case 21:
      return true
    case 22:
      return null
    case 25:
      return halfFloat(source.readUInt16BE(skip(2)))
    case 26:
      return source.readFloatBE(skip(4))
    case 27:
      return source.readDoubleBE(skip(8))
    default:
      return undefined
  }
}

/** A sign, 5 bits of exponent, 10 bits of fraction (IEEE 754). */
function halfFloat(bits: number): number {
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  const size =
    exponent === 0
      ? fraction * 2 ** -24
      : exponent === 31
        ? fraction === 0
          ? Infinity
          : NaN
        : (1_024 + fraction) * 2 ** (exponent - 25)
  return bits & 0x8000 ? -size : size
}

function readText(bytes: number): string {
  const start = skip(bytes)
  return source.toString('utf8', start, position)
}

/** Keys that were read, in places that their bytes say; a message has few, and they come again and again. */
const knownKeys: { bytes: Uint8Array; text: string }[] = []
const places = 512

function readKey(bytes: number): string {
  const start = position
  if (bytes === 0 || bytes > shortText) return readText(bytes)
  const place = (source[start]! + 7 * source[start + bytes - 1]! + 31 * bytes) % places
  const known = knownKeys[place]
  if (known !== undefined && isAt(known.bytes, start, bytes)) {
    position += bytes
    return known.text
  }
  const text = readText(bytes)
  knownKeys[place] = { bytes: Uint8Array.from(source.subarray(start, position)), text }
  return text
}

function isAt(expected: Uint8Array, start: number, bytes: number): boolean {
  if (expected.length !== bytes) return false
  for (let i = 0; i < bytes; i++) if (source[start + i] !== expected[i]) return false
  return true
}

function readArray(length: number): unknown[] {
  const items: unknown[] = []
  for (let i = 0; i < length; i++) items.push(read())
  return items
}

function readMap(length: number): Record<string, unknown> {
  const map: Record<string, unknown> = {}
  for (let i = 0; i < length; i++) {
    const key = readKey(readArgument(source[position++]! & 0x1f))
    // No property of that name can be set as others are; this one is as unknown to every schema.
    map[key === '__proto__' ? '__proto_' : key] = read()
  }
  return map
}
