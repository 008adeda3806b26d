import { allocate, gather, scatter, type TokenCopy } from '@kvx/native'
import fc from 'fast-check'
import { expect, test } from 'vitest'

interface Tensor {
  bufferBase: number
  bufferRunStride: number
  pageBase: number
  pageBytes: number
  pageRunStride: number
  runs: number
  tokenBytes: number
}

const rows = (tensors: readonly Tensor[]): Float64Array =>
  Float64Array.from(
    tensors.flatMap((t) => [
      t.bufferBase,
      t.bufferRunStride,
      t.pageBase,
      t.pageBytes,
      t.pageRunStride,
      t.runs,
      t.tokenBytes,
    ]),
  )

/** Every byte that a copy moves, as pairs of offsets in the buffer and in the memory. */
function* pairs(tensors: readonly Tensor[], copy: TokenCopy): Generator<[number, number]> {
  for (const t of tensors) {
    for (let token = copy.from; token < copy.to; token++) {
      const page = copy.pages[Math.floor(token / copy.pageTokens)] ?? NaN
      for (let k = 0; k < t.runs; k++) {
        for (let i = 0; i < t.tokenBytes; i++) {
          yield [
            t.bufferBase + k * t.bufferRunStride + token * t.tokenBytes + i,
            t.pageBase +
              page * t.pageBytes +
              k * t.pageRunStride +
              (token % copy.pageTokens) * t.tokenBytes +
              i,
          ]
        }
      }
    }
  }
}

/** Tensors beside one another in a buffer and in pages, some token-major (one run), some head-major (many). */
const job = fc
  .record({
    pageTokens: fc.integer({ min: 1, max: 5 }),
    tokens: fc.integer({ min: 1, max: 23 }),
    order: fc.array(fc.nat(1000), { minLength: 30, maxLength: 30 }),
    range: fc.tuple(fc.nat(23), fc.nat(23)),
    tensors: fc.array(
      fc.record({
        runs: fc.integer({ min: 1, max: 4 }),
        tokenBytes: fc.integer({ min: 1, max: 6 }),
        lead: fc.nat(4),
      }),
      { minLength: 1, maxLength: 4 },
    ),
    byteOffset: fc.nat(9),
  })
  .map(({ pageTokens, tokens, order, range, tensors, byteOffset }) => {
    const pages = Array.from({ length: Math.ceil(tokens / pageTokens) }, (_, i) => i)
    const poolPages = pages.length + 2
    pages.sort((a, b) => (order[a] ?? 0) - (order[b] ?? 0))
    let bufferBytes = 0
    let memoryBytes = 0
    const placed = tensors.map(({ runs, tokenBytes, lead }): Tensor => {
      const tensor = {
        bufferBase: bufferBytes + lead,
        bufferRunStride: tokens * tokenBytes + lead,
        pageBase: memoryBytes + lead,
        pageBytes: runs * (pageTokens * tokenBytes + lead),
        pageRunStride: pageTokens * tokenBytes + lead,
        runs,
        tokenBytes,
      }
      bufferBytes = tensor.bufferBase + runs * tensor.bufferRunStride
      memoryBytes = tensor.pageBase + poolPages * tensor.pageBytes
      return tensor
    })
    const [from, to] = range.map((token) => Math.min(token, tokens)).sort((a, b) => a - b)
    return {
      placed,
      pageTokens,
      pages,
      from: from ?? 0,
      to: to ?? 0,
      bufferBytes,
      memoryBytes,
      byteOffset,
    }
  })

test('scatter and gather move exactly the bytes of the tokens, and nothing beside them', () => {
  fc.assert(
    fc.property(job, ({ placed, bufferBytes, memoryBytes, byteOffset, ...rest }) => {
      const memory = allocate(memoryBytes)
      const whole = new Uint8Array(byteOffset + bufferBytes + 3).map((_, i) => (i * 7 + 1) % 251)
      const buffer = Buffer.from(whole.buffer, byteOffset, bufferBytes)
      const copy: TokenCopy = {
        buffer,
        memory,
        tensors: rows(placed),
        pages: Int32Array.from(rest.pages),
        pageTokens: rest.pageTokens,
        from: rest.from,
        to: rest.to,
      }
      const expected = new Uint8Array(memoryBytes)
      for (const [inBuffer, inMemory] of pairs(placed, copy)) {
        expected[inMemory] = buffer[inBuffer] ?? 0
      }
      scatter(copy)
      expect(Buffer.compare(memory.view(0, memoryBytes), expected)).toBe(0)

      const back = new Uint8Array(byteOffset + bufferBytes + 3)
      gather({ ...copy, buffer: back.subarray(byteOffset, byteOffset + bufferBytes) })
      const returned = new Uint8Array(byteOffset + bufferBytes + 3)
      for (const [inBuffer] of pairs(placed, copy)) {
        returned[byteOffset + inBuffer] = buffer[inBuffer] ?? 0
      }
      expect(Buffer.compare(back, returned)).toBe(0)
      memory.free()
    }),
    { numRuns: 200 },
  )
})

const tensor: Tensor = {
  bufferBase: 0,
  bufferRunStride: 32,
  pageBase: 0,
  pageBytes: 32,
  pageRunStride: 16,
  runs: 2,
  tokenBytes: 4,
}

function copyOf(overrides: Partial<TokenCopy> = {}): TokenCopy {
  return {
    buffer: new Uint8Array(64),
    memory: allocate(64),
    tensors: rows([tensor]),
    pages: Int32Array.of(1, 0),
    pageTokens: 4,
    from: 0,
    to: 8,
    ...overrides,
  }
}

test('what reaches outside the buffer, the memory or the pages is refused, and nothing is copied', () => {
  const memory = allocate(64)
  memory.view(0, 64).fill(5)
  const refused: Partial<TokenCopy>[] = [
    { buffer: new Uint8Array(63) },
    { pages: Int32Array.of(1) },
    { pages: Int32Array.of(0, 2) },
    { pages: Int32Array.of(0, -1) },
    { from: 5, to: 4 },
    { from: -1 },
    { to: 9 },
    { to: 7.5 },
    { pageTokens: 0 },
    { tensors: rows([tensor]).subarray(1) },
    { tensors: rows([tensor, { ...tensor, bufferBase: 1 }]) },
    { tensors: rows([tensor, { ...tensor, pageBase: 1 }]) },
    { tensors: rows([{ ...tensor, runs: 2 ** 53, bufferRunStride: 2 ** 53 }]) },
    { tensors: rows([{ ...tensor, tokenBytes: 2 ** 53 }]) },
    { tensors: rows([{ ...tensor, pageBytes: -1 }]) },
    { tensors: rows([{ ...tensor, pageBase: NaN }]) },
    { buffer: [1, 2, 3] as never },
    { pages: [1, 0] as never },
    { tensors: [1] as never },
    { pageTokens: 'four' as never },
  ]
  for (const overrides of refused) {
    expect(() => {
      scatter(copyOf({ memory, ...overrides }))
    }, JSON.stringify(overrides)).toThrow(
      expect.objectContaining({ code: 'ERR_KVX_INVALID_ARGUMENT' }),
    )
  }
  expect(memory.view(0, 64).every((byte) => byte === 5)).toBe(true)
  memory.free()
})

test('memory that kvx did not allocate, or that was freed, is refused', () => {
  expect(() => {
    gather(copyOf({ memory: { address: 4096n, bytes: 64, kind: 'cpu', device: 0 } }))
  }).toThrow(expect.objectContaining({ code: 'ERR_KVX_INVALID_ARGUMENT' }))
  const memory = allocate(64)
  memory.free()
  expect(() => {
    scatter(copyOf({ memory }))
  }).toThrow(expect.objectContaining({ code: 'ERR_KVX_INVALID_STATE' }))
})
