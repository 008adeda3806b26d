import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Encoder } from 'cbor-x'
import { isKvxError } from '@kvx/contract'
import { decodeFrame, encodeMessage, maxFrameMessages, type Message } from '../src/control/codec.ts'

/** What a frame gives out, and whether it was refused then; anything but ERR_KVX_PROTOCOL fails the test. */
function read(frame: Uint8Array, limit?: number): { messages: Message[]; refused: boolean } {
  const messages: Message[] = []
  try {
    for (const message of decodeFrame(frame, limit)) messages.push(message)
    return { messages, refused: false }
  } catch (error) {
    if (isKvxError(error) && error.code === 'ERR_KVX_PROTOCOL') return { messages, refused: true }
    throw error
  }
}

/** The message of a frame that holds one; `undefined` when it is refused. */
function decodeOrRefuse(frame: Uint8Array, limit?: number): Message | undefined {
  const { messages, refused } = read(frame, limit)
  return refused ? undefined : messages[0]
}

function overTheWire(message: Message): Message {
  const [decoded, ...more] = decodeFrame(encodeMessage(message))
  if (decoded === undefined || more.length > 0) throw new Error('not one message')
  return decoded
}

const hex = (text: string) => Uint8Array.from(Buffer.from(text, 'hex'))
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })

/** Views of other buffers and Buffers compare as the bytes they hold. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return Uint8Array.from(value)
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
  }
  return value
}

const leaf = fc.oneof(
  fc.string({ unit: 'grapheme' }),
  fc.string({ unit: 'grapheme', minLength: 200, maxLength: 400 }),
  fc.integer(),
  fc.maxSafeInteger(),
  fc.constantFrom(23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, -24, -25, -(2 ** 32)),
  u64,
  fc.bigInt({ min: 1n - 2n ** 64n, max: -1n }),
  fc.double({ noNaN: true }).filter((x) => !Object.is(x, -0)),
  fc.boolean(),
  fc.constant(null),
  fc.uint8Array({ maxLength: 300 }),
)
const key = fc.string({ unit: 'grapheme-ascii' }).filter((name) => name !== '__proto__')
const { value } = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', maxDepth: 6 },
    leaf,
    fc.array(tie('value')),
    fc.dictionary(key, tie('value'), { noNullPrototype: true }),
  ),
}))
const anyMessage = fc.dictionary(key, value, { noNullPrototype: true })

test('plain data comes back as it was, bytes and 64-bit numbers exactly', () => {
  fc.assert(
    fc.property(anyMessage, (message) => {
      expect(plain(overTheWire(message))).toEqual(plain(message))
    }),
    { numRuns: 300 },
  )
})

test('what is written is what cbor-x writes in the shortest form, and what cbor-x writes is read', () => {
  const common = { useRecords: false, tagUint8Array: false, mapsAsObjects: true }
  const shortest = new Encoder({ ...common, variableMapSize: true })
  const others = new Encoder(common)
  fc.assert(
    fc.property(anyMessage, (message) => {
      expect(Buffer.compare(encodeMessage(message), shortest.encode(message))).toBe(0)
      expect(plain(decodeOrRefuse(others.encode(message)))).toEqual(plain(message))
    }),
    { numRuns: 100 },
  )
})

test('half and single floats are read, which kvx does not write', () => {
  const read = (text: string) => decodeOrRefuse(hex(`a16161${text}`))?.a
  expect(['f93c00', 'f9c000', 'f90001', 'f97c00', 'f9fc00'].map(read)).toEqual([
    ...[1, -2, 2 ** -24, Infinity, -Infinity],
  ])
  expect(['f97e00', 'fa3fc00000'].map(read)).toEqual([NaN, 1.5])
})

test('a message of megabytes is not written over by the next one', () => {
  const bytes = Uint8Array.from({ length: 3_000_000 }, (_, i) => i % 251)
  const first = encodeMessage({ bytes })
  encodeMessage({ bytes: bytes.map((byte) => 255 - byte) })
  expect(Buffer.compare(decodeOrRefuse(first)?.bytes as Uint8Array, bytes)).toBe(0)
})

test('what is no plain data cannot be sent', () => {
  expect(() => encodeMessage({ a: () => 1 })).toThrow('A function cannot be sent.')
  expect(() => encodeMessage({ a: 2n ** 64n })).toThrow(RangeError)
})

test('a room of 64 bits arrives as the same bigint, also when it is small', () => {
  fc.assert(
    fc.property(
      fc.oneof(u64, fc.constantFrom(0n, 1n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 64n - 1n)),
      (room) => {
        expect(overTheWire({ room }).room).toBe(room)
      },
    ),
  )
})

test('random bytes are maps or are refused, never anything else', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (frame) => {
      const { messages } = read(frame)
      expect(messages.every((m) => typeof m === 'object' && !Array.isArray(m))).toBe(true)
    }),
    { numRuns: 5_000 },
  )
})

test('mutated messages are maps or are refused, never anything else', () => {
  const frame = encodeMessage({
    v: 1,
    kind: 'reserve',
    room: 2n ** 63n,
    pages: new Uint8Array(64),
    wants: { a: [1, 'x', null] },
  })
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(frame.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      fc.nat(frame.length),
      (edits, end) => {
        const mutant = Uint8Array.from(frame)
        for (const [at, byte] of edits) mutant[at] = byte
        decodeOrRefuse(mutant)
        decodeOrRefuse(mutant.subarray(0, end))
      },
    ),
    { numRuns: 5_000 },
  )
})

test.each([
  ['an empty frame', hex('')],
  ['a number', hex('01')],
  ['an array', hex('8101')],
  ['a truncated map', hex('a1')],
  ['a map with a number as key', hex('a10101')],
  ['a byte behind the end', hex('a000')],
  ['a map of open length', hex('bfff')],
  ['an array that claims 2^32 − 1 elements', hex('a161619affffffff')],
  ['bytes that claim 2^63', hex('a161615b8000000000000000')],
  ['a date', hex('a16161c11a5f5e1000')],
  ['a regular expression', hex('a16161d81b8266526567457870612b')],
  ['a typed array', new Encoder({ useRecords: false }).encode({ a: Int32Array.of(1) })],
  ['a reserved length', hex('a161611c')],
  ['an unknown simple value', hex('a16161f820')],
])('%s is refused', (_, frame) => {
  expect(decodeOrRefuse(frame)).toBeUndefined()
})

test('a message that ends too early is refused, wherever it is cut', () => {
  fc.assert(
    fc.property(anyMessage, fc.double({ min: 0, max: 1, maxExcluded: true }), (message, where) => {
      const frame = encodeMessage(message)
      const cut = frame.subarray(0, Math.floor(frame.length * where))
      expect(read(cut)).toEqual({ messages: [], refused: true })
    }),
    { numRuns: 300 },
  )
})

/** The head of a value of a major type whose argument takes 1, 2, 4 or 8 bytes, as large as that allows. */
const head = (major: number, width: number) =>
  Buffer.from([(major << 5) | (24 + Math.log2(width)), ...new Array<number>(width).fill(0xff)])

test('a length beyond the end is refused before anything is made of it, wherever it stands', () => {
  const [kinds, widths] = [fc.constantFrom(2, 3, 4, 5), fc.constantFrom(1, 2, 4, 8)]
  fc.assert(
    fc.property(anyMessage, kinds, widths, (message, kind, width) => {
      // A map of one more pair than the message has: what follows it is the claim.
      const pairs = Object.keys(message).length
      fc.pre(pairs < 23)
      const body = encodeMessage(message).subarray(1)
      const frame = Buffer.concat([
        Uint8Array.of(0xa0 | (pairs + 1)),
        body,
        hex('616b'),
        head(kind, width),
      ])
      const before = process.memoryUsage().arrayBuffers
      expect(read(frame)).toEqual({ messages: [], refused: true })
      expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1 << 20)
    }),
    { numRuns: 300 },
  )
})

test('arrays and maps within each other are read to 16 levels, and refused below that', () => {
  const levels = fc.array(fc.boolean(), { minLength: 1, maxLength: 40 })
  fc.assert(
    fc.property(levels, (maps) => {
      const inside = maps.map((isMap) => (isMap ? 'a1616b' : '81')).join('')
      const { refused } = read(hex(`a16161${inside}01`))
      expect(refused).toBe(maps.length + 1 > 16)
    }),
    { numRuns: 300 },
  )
})

test('of a key that comes twice the last value counts, as in JSON', () => {
  const small = fc.dictionary(fc.constantFrom('a', 'b', 'c', 'key'), fc.nat(), {
    minKeys: 1,
    noNullPrototype: true,
  })
  fc.assert(
    fc.property(small, small, (one, other) => {
      const [first, second] = [encodeMessage(one), encodeMessage(other)]
      const pairs = Object.keys(one).length + Object.keys(other).length
      const frame = Buffer.concat([
        Uint8Array.of(0xa0 | pairs),
        first.subarray(1),
        second.subarray(1),
      ])
      expect(decodeOrRefuse(frame)).toEqual({ ...one, ...other })
    }),
  )
})

test('keys that are alike in length, first and last character are told apart, however often they come', () => {
  const keys = fc.array(
    fc.string({ unit: fc.constantFrom('x', 'y', 'é'), minLength: 0, maxLength: 6 }),
  )
  fc.assert(
    fc.property(fc.array(keys, { maxLength: 5 }), (lists) => {
      for (const list of lists) {
        const message = Object.fromEntries(list.map((name, i) => [`x${name}x`, i]))
        expect(overTheWire(message)).toEqual(message)
      }
    }),
    { numRuns: 300 },
  )
})

test('a key that names the prototype does not reach it', () => {
  const message = decodeOrRefuse(hex('a1695f5f70726f746f5f5fa161610a'))
  expect((message as { a?: unknown } | undefined)?.a).toBeUndefined()
  expect(({} as { a?: unknown }).a).toBeUndefined()
})

test('nesting is bounded', () => {
  const nested = (depth: number) => hex('a16161' + '81'.repeat(depth) + '01')
  expect(decodeOrRefuse(nested(10))).toBeDefined()
  expect(decodeOrRefuse(nested(16))).toBeUndefined()
  expect(decodeOrRefuse(nested(1_000_000))).toBeUndefined()
})

test('the number of values is bounded, the number of bytes in one of them is not', () => {
  const many = new Encoder({ useRecords: false }).encode({ a: new Array(100_000).fill(0) })
  expect(decodeOrRefuse(many)).toBeUndefined()
  expect(decodeOrRefuse(encodeMessage({ a: new Uint8Array(100_000) }))).toBeDefined()
})

test('a frame above the limit is refused on both sides', () => {
  const message = { a: new Uint8Array(1_000) }
  expect(() => encodeMessage(message, 900)).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_OVER_LIMIT' }),
  )
  expect(decodeOrRefuse(encodeMessage(message), 900)).toBeUndefined()
})

test('a frame is one message after the other, and they come out in their order', () => {
  fc.assert(
    fc.property(
      fc.array(fc.dictionary(fc.string({ minLength: 1, maxLength: 4 }), fc.nat()), {
        minLength: 1,
        maxLength: 20,
      }),
      (sent) => {
        const frame = Buffer.concat(sent.map((message) => encodeMessage(message)))
        const { messages, refused } = read(frame)
        expect(refused).toBe(false)
        expect(messages.map(plain)).toEqual(sent.map((message) => plain({ ...message })))
      },
    ),
  )
})

test('the first that is no message ends a frame: those before it count, those behind it are lost', () => {
  const frame = (...parts: Uint8Array[]) => read(Buffer.concat(parts))
  const one = (i: number) => encodeMessage({ i })
  expect(frame(one(1), one(2), hex('c0'), one(3))).toEqual({
    messages: [{ i: 1 }, { i: 2 }],
    refused: true,
  })
  expect(frame(hex('ff'), one(1))).toEqual({ messages: [], refused: true })
  expect(frame(one(1), one(2).subarray(0, 3))).toEqual({ messages: [{ i: 1 }], refused: true })
})

test('the number of messages in a frame is bounded', () => {
  const one = encodeMessage({ i: 1 })
  const many = (count: number) => read(Buffer.concat(new Array<Uint8Array>(count).fill(one)))
  expect(many(maxFrameMessages)).toMatchObject({ refused: false })
  const { messages, refused } = many(maxFrameMessages + 1)
  expect(refused).toBe(true)
  expect(messages).toHaveLength(maxFrameMessages)
})

test('a message of more values than a receiver takes is refused before it is sent', () => {
  const message = (values: number) => ({ a: new Array<number>(values).fill(1_000) })
  const limit = 65_536
  // The map, its key and the array count as well.
  expect(decodeOrRefuse(encodeMessage(message(limit - 3)))).toBeDefined()
  expect(() => encodeMessage(message(limit - 2))).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_OVER_LIMIT' }),
  )
})
