/** Is memory that a rank does not have, or has twice, refused, and everything else accepted? */
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  checkPlace,
  packPlace,
  unpackPlace,
  type Place,
  type TensorPlace,
} from '../../src/place/index.ts'
import { findOverlap, type Extent } from '../../src/place/overlap.ts'
import { makeRank } from '../../src/share/index.ts'
import type { CacheShape } from '../../src/shape/index.ts'

// Two layers of 8 heads of 4 bytes; a rank of two holds 4 of them: 16 bytes per token, 64 per page of 4.
const shape: CacheShape = {
  model: 'm',
  layers: 2,
  components: [
    {
      name: 'kv',
      addressed: 'tokens',
      tensors: [0, 1].map((layer) => ({ layer, part: 'k', dtype: 'f16', units: 8, unitBytes: 4 })),
    },
  ],
}
const rank = makeRank(2, { tpSize: 2 })
const at = (layer: number, more: Partial<TensorPlace> = {}): TensorPlace => ({
  ...{ component: 'kv', layer, part: 'k', region: 0, base: layer * 640, pageBytes: 64 },
  ...{ order: 'NHD', ...more },
})
const place: Place = { components: { kv: { pageTokens: 4, pages: 10 } }, tensors: [at(0), at(1)] }
const regions = [1_280]

test('two layers, one after the other, or page by page in turn', () => {
  checkPlace(shape, rank, place, regions)
  const inTurn = [at(0, { pageBytes: 128 }), at(1, { pageBytes: 128, base: 64 })]
  checkPlace(shape, rank, { ...place, tensors: inTurn }, regions)
})

test.each<[string, unknown, string]>([
  ['no object', null, 'place must be an object, got null.'],
  [
    'a tensor that is missing',
    { ...place, tensors: [at(0)] },
    'place lacks kv layer 1 k, which rank tp0/pp0/cp0/dp0 holds.',
  ],
  [
    'a tensor of nobody',
    { ...place, tensors: [at(0), at(1), at(1, { part: 'v' })] },
    'place has kv layer 1 v, which rank tp0/pp0/cp0/dp0 does not hold.',
  ],
  ['a tensor twice', { ...place, tensors: [at(0), at(0)] }, 'place has kv layer 0 k twice.'],
  ['no pages', { ...place, components: {} }, "place.components lacks 'kv'."],
  [
    'pages of no size',
    { ...place, components: { kv: { pages: 10 } } },
    'place.components.kv: pageTokens is missing.',
  ],
  [
    'a region that does not exist',
    { ...place, tensors: [at(0), at(1, { region: 1 })] },
    'kv layer 1 k: region must be below 1, the number of memories, got 1.',
  ],
  [
    'a byte beyond the region',
    { ...place, tensors: [at(0), at(1, { base: 641 })] },
    'kv layer 1 k: it ends at byte 1281 of region 0, which has 1280 bytes.',
  ],
  [
    'pages that are too small',
    { ...place, tensors: [at(0, { pageBytes: 63 }), at(1)] },
    'kv layer 0 k: pageBytes must be at least 64, the bytes of a page, got 63.',
  ],
  [
    'a byte in two tensors',
    { ...place, tensors: [at(0), at(1, { base: 639 })] },
    'kv layer 0 k and kv layer 1 k overlap in region 0; tensors whose pages alternate must have equal pageBytes.',
  ],
  [
    'pages that alternate and touch',
    { ...place, tensors: [at(0, { pageBytes: 128 }), at(1, { pageBytes: 128, base: 63 })] },
    'kv layer 0 k and kv layer 1 k overlap in region 0; tensors whose pages alternate must have equal pageBytes.',
  ],
  [
    'elements of no size',
    { ...place, tensors: [at(0, { order: 'HDN' }), at(1)] },
    "kv layer 0 k: the order 'HDN' needs elementBytes in the shape.",
  ],
])('%s is refused', (_, wrong, message) => {
  expect(() => {
    checkPlace(shape, rank, wrong as Place, regions)
  }).toThrow(expect.objectContaining({ code: 'ERR_KVX_INVALID_ARGUMENT', message }))
})

test('extents with equal distances overlap exactly when they share a byte', () => {
  const extent = fc.record({
    base: fc.nat(60),
    pages: fc.integer({ min: 1, max: 4 }),
    bytes: fc.integer({ min: 1, max: 6 }),
  })
  fc.assert(
    fc.property(
      fc.array(extent, { maxLength: 10 }),
      fc.integer({ min: 6, max: 12 }),
      (list, pageBytes) => {
        const extents = list.map((one, i): Extent => ({ ...one, pageBytes, name: String(i) }))
        const seen = new Set<number>()
        let shared = false
        for (const { base, pages, bytes } of extents) {
          const own = new Set<number>()
          for (let page = 0; page < pages; page++) {
            for (let b = 0; b < bytes; b++) own.add(base + page * pageBytes + b)
          }
          shared ||= [...own].some((byte) => seen.has(byte))
          for (const byte of own) seen.add(byte)
        }
        expect(findOverlap(extents) !== undefined).toBe(shared)
      },
    ),
    { numRuns: 10_000 },
  )
})

test('as many tensors as there may be, side by side in each page, are compared without each with every other', () => {
  let meetings = 0
  const count = 65_536
  const extents = Array.from({ length: count }, (_, i) => ({
    name: String(i),
    base: i * 8,
    pages: 100,
    pageBytes: count * 8,
    get bytes() {
      meetings++
      return 8
    },
  }))
  expect(findOverlap(extents)).toBeUndefined()
  expect(meetings).toBeLessThan(20 * count)
})

test('a place that was packed is the same place, and eighty layers are few entries', () => {
  const tensors = ['k', 'v'].flatMap((part) =>
    Array.from({ length: 80 }, (_, layer) =>
      at(layer, { part, base: layer * 640 + (part === 'v' ? 51_200 : 0) }),
    ),
  )
  const large: Place = { ...place, tensors }
  const packed = packPlace(large)
  expect(JSON.stringify(packed).length).toBeLessThan(500)
  expect(unpackPlace(packed)).toEqual(large)
})
