import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Encoder } from 'cbor-x'
import { isKvxError } from '@kvx/core/backend'
import { decodeMessage, encodeMessage, type Message } from '../src/control/codec.ts'

/** `undefined` when the frame is refused; anything but ERR_KVX_PROTOCOL fails the test. */
function decodeOrRefuse(frame: Uint8Array, limit?: number): Message | undefined {
  try {
    return decodeMessage(frame, limit)
  } catch (error) {
    if (isKvxError(error) && error.code === 'ERR_KVX_PROTOCOL') return undefined
    throw error
  }
}

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

test('plain data comes back as it was, bytes and 64-bit numbers exactly', () => {
  const leaf = fc.oneof(
    fc.string({ unit: 'grapheme' }),
    fc.maxSafeInteger(),
    u64,
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
  fc.assert(
    fc.property(fc.dictionary(key, value, { noNullPrototype: true }), (message) => {
      expect(plain(decodeMessage(encodeMessage(message)))).toEqual(plain(message))
    }),
    { numRuns: 300 },
  )
})

test('a room of 64 bits arrives as the same bigint, also when it is small', () => {
  fc.assert(
    fc.property(
      fc.oneof(u64, fc.constantFrom(0n, 1n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 64n - 1n)),
      (room) => {
        expect(decodeMessage(encodeMessage({ room })).room).toBe(room)
      },
    ),
  )
})

test('random bytes are a map or are refused, never anything else', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (frame) => {
      const message = decodeOrRefuse(frame)
      expect(
        message === undefined || (typeof message === 'object' && !Array.isArray(message)),
      ).toBe(true)
    }),
    { numRuns: 5_000 },
  )
})

test('mutated messages are a map or are refused, never anything else', () => {
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

const hex = (text: string) => Uint8Array.from(Buffer.from(text, 'hex'))

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
