/** Who sends what: against the tables of SGLang where it has an answer, and against the promise itself where it has none. */
import { describe, expect, test } from 'vitest'
import type { CacheShape, TensorShape } from '../../src/shape/index.ts'
import {
  dpRankOf,
  electedUnits,
  heldUnits,
  makeRank,
  requiredPrefillRanks,
  servedDecodeRanks,
  topologyObjection,
  type Rank,
} from '../../src/share/index.ts'

const layers = 8

/** One K tensor per layer. */
function shapeWith(units: number, more: Partial<TensorShape> = {}): CacheShape {
  const tensors = Array.from({ length: layers }, (_, layer) => ({
    ...{ layer, part: 'k', dtype: 'f16', units, unitBytes: 128 },
    ...more,
  }))
  return { model: 'm', layers, components: [{ name: 'kv', addressed: 'tokens', tensors }] }
}

function ranksOf(given: Partial<Rank>): { rank: Rank }[] {
  const { tpSize = 1, ppSize = 1, cpSize = 1, dpSize = 1 } = given
  const ranks: { rank: Rank }[] = []
  for (let dp = 0; dp < dpSize; dp++) {
    for (let pp = 0; pp < ppSize; pp++) {
      for (let cp = 0; cp < cpSize; cp++) {
        for (let tp = 0; tp < tpSize; tp++) {
          ranks.push({ rank: makeRank(layers, { ...given, tp, pp, cp, dp }) })
        }
      }
    }
  }
  return ranks
}

const decodeRank = (tp: number, tpSize: number) => makeRank(layers, { tp, tpSize })
const tokens = { addressed: 'tokens' } as const

/** Tensor-parallel numbers of the prefill ranks to which a decode rank connects. */
function targets(shape: CacheShape, p: number, decode: Rank): number[] {
  return requiredPrefillRanks(shape, decode, ranksOf({ tpSize: p }), 0).map(({ rank }) => rank.tp)
}

describe('the rank mapping of SGLang', () => {
  test.each([1, 2, 4, 8])(
    'equal sizes of %i: each decode rank has the prefill rank of its number',
    (size) => {
      for (let r = 0; r < size; r++) {
        expect(targets(shapeWith(8), size, decodeRank(r, size))).toEqual([r % size])
      }
    },
  )

  test.each([
    [1, 2],
    [1, 8],
    [2, 4],
    [2, 8],
    [4, 8],
  ])(
    'prefill %i, decode %i: decode rank r has prefill rank r div (d/p), which d/p of them reach',
    (p, d) => {
      const shape = shapeWith(8)
      for (let r = 0; r < d; r++) {
        expect(targets(shape, p, decodeRank(r, d))).toEqual([Math.floor(r / (d / p))])
      }
      for (const { rank } of ranksOf({ tpSize: p })) {
        expect(servedDecodeRanks(shape, rank, decodeRank(0, d))).toHaveLength(d / p)
      }
    },
  )

  test.each([
    [2, 1],
    [4, 1],
    [4, 2],
    [8, 2],
    [8, 4],
  ])(
    'prefill %i, decode %i, MHA: decode rank r has the p/d ranks from r·(p/d) on, and each serves it alone',
    (p, d) => {
      const shape = shapeWith(8)
      for (let r = 0; r < d; r++) {
        const expected = Array.from({ length: p / d }, (_, i) => (r * p) / d + i)
        expect(targets(shape, p, decodeRank(r, d))).toEqual(expected)
      }
      for (const { rank } of ranksOf({ tpSize: p })) {
        expect(servedDecodeRanks(shape, rank, decodeRank(0, d))).toHaveLength(1)
      }
    },
  )

  test.each([
    [2, 1],
    [4, 2],
    [8, 2],
    [8, 4],
  ])(
    'prefill %i, decode %i, MLA: the same ranks, of which each sends some of the layers instead of one all',
    (p, d) => {
      const shape = shapeWith(1)
      for (let r = 0; r < d; r++) {
        const decode = decodeRank(r, d)
        const expected = Array.from({ length: p / d }, (_, i) => (r * p) / d + i)
        expect(targets(shape, p, decode)).toEqual(expected)
        const senders = shape.components[0]!.tensors.map((tensor) =>
          ranksOf({ tpSize: p }).flatMap(({ rank }) =>
            electedUnits(rank, decode, tokens, tensor) ? [rank.tp] : [],
          ),
        )
        expect(senders.every((list) => list.length === 1)).toBe(true)
        expect(new Set(senders.flat())).toEqual(new Set(expected))
      }
    },
  )

  test('MLA with fewer decode ranks than copies and one layer: who has nothing to send is visited by one decode rank', () => {
    const shape: CacheShape = { ...shapeWith(1), layers: 1 }
    const one = {
      ...shape,
      components: [{ ...shape.components[0]!, tensors: shape.components[0]!.tensors.slice(0, 1) }],
    }
    const decode = [0, 1].map((tp) => makeRank(1, { tp, tpSize: 2 }))
    const prefill = Array.from({ length: 8 }, (_, tp) => ({ rank: makeRank(1, { tp, tpSize: 8 }) }))
    const reached = decode.map((rank) =>
      requiredPrefillRanks(one, rank, prefill, 0).map((found) => found.rank.tp),
    )
    expect(reached.flat().sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    for (const { rank } of prefill) expect(servedDecodeRanks(one, rank, decode[0]!)).toHaveLength(1)
  })

  test('a data-parallel rank of prefill is the room modulo their number', () => {
    expect([0n, 1n, 7n, 2n ** 64n - 1n].map((room) => dpRankOf(room, 4))).toEqual([0, 1, 3, 3])
    const prefill = ranksOf({ tpSize: 2, dpSize: 3 })
    const found = requiredPrefillRanks(shapeWith(8), decodeRank(0, 1), prefill, 2)
    expect(found.map(({ rank }) => [rank.tp, rank.dp])).toEqual([
      [0, 2],
      [1, 2],
    ])
  })
})

describe('the head slices of SGLang', () => {
  const sizes = [1, 2, 4, 8]
  const cases = sizes.flatMap((p) =>
    sizes.flatMap((d) => sizes.map((total) => [p, d, total] as const)),
  )

  test.each(cases)('prefill %i, decode %i, %i heads', (p, d, total) => {
    const shape = shapeWith(total)
    const [sourceHeads, destinationHeads] = [Math.max(1, total / p), Math.max(1, total / d)]
    const [sourceCopies, destinationCopies] = [Math.max(1, p / total), Math.max(1, d / total)]
    for (let r = 0; r < d; r++) {
      const decode = decodeRank(r, d)
      let heads = 0
      for (const { rank } of ranksOf({ tpSize: p })) {
        const tensor = shape.components[0]!.tensors[0]!
        const units = electedUnits(rank, decode, tokens, tensor)
        if (!units) continue
        const [from, to] = [heldUnits(rank, tensor)!, heldUnits(decode, tensor)!]
        const slice = {
          source: units[0] - from[0],
          heads: units[1] - units[0],
          destination: units[0] - to[0],
        }
        const first = (rank_: number, copies: number, each: number, other: number) =>
          (Math.floor(rank_ / copies) * each) % other
        expect(slice).toEqual(
          p > d
            ? {
                source: 0,
                heads: sourceHeads,
                destination: first(rank.tp, sourceCopies, sourceHeads, destinationHeads),
              }
            : {
                source: first(r, destinationCopies, destinationHeads, sourceHeads),
                heads: destinationHeads,
                destination: 0,
              },
        )
        heads += slice.heads
      }
      expect(heads).toBe(destinationHeads)
    }
  })

  test('prefill 1, decode 4, 2 heads: decode ranks 0 and 1 take head 0, 2 and 3 take head 1', () => {
    const [tensor] = shapeWith(2).components[0]!.tensors
    const taken = [0, 1, 2, 3].map((tp) =>
      electedUnits(decodeRank(0, 1), decodeRank(tp, 4), tokens, tensor!),
    )
    expect(taken).toEqual([
      [0, 1],
      [0, 1],
      [1, 2],
      [1, 2],
    ])
  })
})

test('copies share the work: with 8 prefill ranks of 2 heads, 4 decode ranks of 2 heads read from all of them', () => {
  const shape = shapeWith(2)
  const count = new Map<number, number>()
  for (let tp = 0; tp < 4; tp++) {
    for (const { rank } of ranksOf({ tpSize: 8 })) {
      for (const tensor of shape.components[0]!.tensors) {
        if (electedUnits(rank, decodeRank(tp, 4), tokens, tensor)) {
          count.set(rank.tp, (count.get(rank.tp) ?? 0) + 1)
        }
      }
    }
  }
  expect([...count.values()]).toEqual(Array.from({ length: 8 }, () => layers / 2))
})

test.each<[string, Partial<Rank>, CacheShape, RegExp]>([
  [
    'heads that the ranks cannot share',
    { tpSize: 3 },
    shapeWith(8),
    /^The ranks do not fit in tpSize: prefill has 3, decode has 1\. kv layer 0 k has 8 units, which 3 ranks cannot share evenly; .* would fit$/,
  ],
  [
    'stages of another model',
    { stages: [0, 9] },
    shapeWith(8),
    /^The ranks do not fit in stages: prefill has \[0, 9\], decode has \[0, 8\]\. The cache has 8 layers, .* would fit$/,
  ],
  [
    'a stage without cache',
    { ppSize: 2, stages: [0, 2, 8] },
    {
      ...shapeWith(8),
      components: [
        { ...shapeWith(8).components[0]!, tensors: shapeWith(8).components[0]!.tensors.slice(2) },
      ],
    },
    /^The ranks do not fit in stages: prefill has \[0, 2, 8\], decode has \[0, 8\]\. Stage 0, layers 0 to 1, has no tensor of the cache; .* would fit$/,
  ],
  [
    'rows that context parallelism would cut',
    { cpSize: 2, context: { interleave: 6 } },
    shapeWith(8, { tokensPerRow: 4 }),
    /^The ranks do not fit in context: prefill has { interleave: 6 }, decode has 'all'\. kv layer 0 k has one row for 4 tokens, .* would fit$/,
  ],
])('%s are refused, with what would fit', (_, given, shape, says) => {
  const prefill = makeRank(layers, given)
  expect(topologyObjection(shape, prefill, decodeRank(0, 1))).toMatch(says)
  expect(() => requiredPrefillRanks(shape, decodeRank(0, 1), [{ rank: prefill }], 0)).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_LAYOUT_MISMATCH' }),
  )
})
