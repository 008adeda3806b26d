/** Which ranks talk to which: checked against a reference that counts every head of every layer. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  dpRankOf,
  headsOf,
  makeRank,
  rankObjection,
  requiredPrefillRanks,
  sends,
  servedDecodeRanks,
  stageOf,
  topologyObjection,
  type Rank,
} from '../src/protocol/index.ts'

/** All ranks of one data-parallel rank's instance. */
function allRanks(layers: number, sizes: Partial<Rank>): { rank: Rank }[] {
  const rest = makeRank(layers, sizes)
  const range = (size: number) => Array.from({ length: size }, (_, i) => i)
  return range(rest.dpSize).flatMap((dp) =>
    range(rest.cpSize).flatMap((cp) =>
      range(rest.ppSize).flatMap((pp) =>
        range(rest.tpSize).map((tp) => ({ rank: { ...rest, tp, pp, cp, dp } })),
      ),
    ),
  )
}

const stagesOf = (layers: number, cuts: readonly number[]) => [
  0,
  ...[...new Set(cuts.map((cut) => 1 + (cut % Math.max(1, layers - 1))))]
    .filter((cut) => cut < layers)
    .sort((a, b) => a - b),
  layers,
]

const side = fc.record({
  tpSize: fc.constantFrom(1, 2, 4, 8),
  cuts: fc.array(fc.nat(100), { maxLength: 2 }),
  cpSize: fc.constantFrom(1, 2),
  dpSize: fc.constantFrom(1, 2),
})

const pairs = fc
  .record({
    layers: fc.integer({ min: 1, max: 12 }),
    heads: fc.constantFrom(1, 2, 4, 8),
    prefill: side,
    decode: side,
    room: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  })
  .map(({ layers, heads, prefill, decode, room }) => {
    const of = ({ cuts, ...sizes }: typeof prefill) => {
      const stages = stagesOf(layers, cuts)
      return allRanks(layers, { ...sizes, stages, ppSize: stages.length - 1 })
    }
    const prefills = of(prefill)
    const dp = dpRankOf(room, prefill.dpSize)
    return { layers, heads, prefills, decodes: of({ ...decode, cpSize: prefill.cpSize }), dp }
  })
  .filter(
    ({ prefills, decodes, heads }) =>
      topologyObjection(prefills[0]!.rank, decodes[0]!.rank, heads) === undefined,
  )

test('a decode rank gets every head of every layer it holds from exactly one prefill rank', () => {
  fc.assert(
    fc.property(pairs, ({ heads, prefills, decodes, dp }) => {
      for (const { rank } of decodes) {
        const sources = requiredPrefillRanks(rank, prefills, heads, dp)
        const [firstLayer, endLayer] = stageOf(rank)
        const [firstHead, endHead] = headsOf(rank, heads)
        for (let layer = firstLayer; layer < endLayer; layer++) {
          for (let head = firstHead; head < endHead; head++) {
            const holders = sources.filter(({ rank: source }) => {
              const [low, high] = stageOf(source)
              const [from, to] = headsOf(source, heads)
              return layer >= low && layer < high && head >= from && head < to
            })
            expect(holders).toHaveLength(1)
          }
        }
        expect(sources.every(({ rank: source }) => source.dp === dp)).toBe(true)
        expect(sources.every(({ rank: source }) => source.cp === rank.cp)).toBe(true)
      }
    }),
  )
})

test('no rank is connected that sends nothing, and no prefill rank is left without a partner', () => {
  fc.assert(
    fc.property(pairs, ({ heads, prefills, decodes, dp }) => {
      const connected = new Set(
        decodes.flatMap(({ rank }) => requiredPrefillRanks(rank, prefills, heads, dp)),
      )
      expect(connected.size).toBe(prefills.filter(({ rank }) => rank.dp === dp).length)
      for (const { rank } of decodes) {
        for (const { rank: source } of requiredPrefillRanks(rank, prefills, heads, dp)) {
          const layers = Math.min(stageOf(source)[1], stageOf(rank)[1])
          expect(layers).toBeGreaterThan(Math.max(stageOf(source)[0], stageOf(rank)[0]))
        }
      }
    }),
  )
})

test('both sides agree on who sends to whom', () => {
  fc.assert(
    fc.property(pairs, ({ heads, prefills, decodes }) => {
      const place = ({ tp, pp }: Rank) => `${String(tp)}/${String(pp)}`
      for (const { rank: prefill } of prefills) {
        for (const { rank: decode } of decodes) {
          const served = servedDecodeRanks(prefill, decode, heads).map(place)
          const sentTo = decodes
            .filter(({ rank }) => rank.dp === decode.dp && rank.cp === decode.cp)
            .filter(({ rank }) => sends(prefill, rank, heads))
            .map(({ rank }) => place(rank))
          expect(served.sort()).toEqual(sentTo.sort())
        }
      }
    }),
  )
})

test.each<[string, Partial<Rank>, Partial<Rank>, number[][]]>([
  ['one to one', {}, {}, [[0]]],
  ['two stages to one', { ppSize: 2 }, {}, [[0, 1]]],
  ['one to two stages', {}, { ppSize: 2 }, [[0], [0]]],
  ['two tensor ranks to one', { tpSize: 2 }, {}, [[0, 1]]],
  ['one to two tensor ranks', {}, { tpSize: 2 }, [[0], [0]]],
  ['stages that are cut alike', { ppSize: 2 }, { ppSize: 2 }, [[0], [1]]],
])(
  '%s: each decode rank connects to the prefill ranks that hold bytes for it',
  (_, p, d, expected) => {
    const prefills = allRanks(4, p)
    const connected = allRanks(4, d).map(({ rank }) =>
      requiredPrefillRanks(rank, prefills, 2, 0).map((found) => prefills.indexOf(found)),
    )
    expect(connected).toEqual(expected)
  },
)

test.each<[string, Partial<Rank>, Partial<Rank>, string]>([
  ['context-parallel sizes', { cpSize: 2 }, {}, 'the context-parallel sizes differ'],
  ['head counts', { tpSize: 3 }, {}, 'cannot share 4 KV heads evenly'],
  ['copies nobody takes', { tpSize: 8 }, { tpSize: 2 }, 'would not take from all of them'],
])('other %s are refused with the reason', (_, prefill, decode, text) => {
  expect(() => requiredPrefillRanks(makeRank(4, decode), allRanks(4, prefill), 4, 0)).toThrow(
    expect.objectContaining({
      code: 'ERR_KVX_LAYOUT_MISMATCH',
      message: expect.stringContaining(text) as string,
    }),
  )
})

test.each<[string, Partial<Rank>]>([
  ['a coordinate that is not below its size', { tp: 2, tpSize: 2 }],
  ['a size of none', { dpSize: 0 }],
  ['a fraction', { cp: 0.5, cpSize: 2 }],
  ['more ranks than an instance may have', { tpSize: 4_096, dpSize: 2 }],
  ['too few stages', { ppSize: 2, stages: [0, 4] }],
  ['stages that do not ascend', { ppSize: 2, stages: [0, 3, 3] }],
  ['stages that begin late', { stages: [1, 4] }],
])('a rank with %s is no rank', (_, change) => {
  expect(rankObjection({ ...makeRank(4), ...change })).toEqual(expect.any(String))
})
