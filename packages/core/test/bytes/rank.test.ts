/** Ranks, and what identifies a cache and a prompt. */
import { expect, test } from 'vitest'
import { promptDigest, shapeFingerprint, type CacheShape } from '../../src/shape/index.ts'
import { makeRank, rankObjection, requiredPrefillRanks, type Rank } from '../../src/share/index.ts'

test.each<[string, Partial<Rank>]>([
  ['a coordinate that is not below its size', { tp: 2, tpSize: 2 }],
  ['a size of none', { dpSize: 0 }],
  ['a fraction', { cp: 0.5, cpSize: 2 }],
  ['more ranks than an instance may have', { tpSize: 4_096, dpSize: 2 }],
  ['too few stages', { ppSize: 2, stages: [0, 4] }],
  ['stages that do not ascend', { ppSize: 2, stages: [0, 3, 3] }],
  ['stages that begin late', { stages: [1, 4] }],
  ['stretches of no token', { cpSize: 2, context: { interleave: 0 } }],
])('a rank with %s is no rank', (_, change) => {
  expect(rankObjection({ ...makeRank(4), ...change })).toEqual(expect.any(String))
})

const tensors = [0, 1, 2, 3].map((layer) => ({
  ...{ layer, part: 'k', dtype: 'f16', units: 2, unitBytes: 8 },
}))
const shape: CacheShape = {
  model: 'm',
  settings: { a: '1', b: '2' },
  layers: 4,
  components: [{ name: 'kv', addressed: 'tokens', tensors }],
}

const ranksOf = (sizes: Partial<Rank>) => {
  const one = makeRank(4, sizes)
  return Array.from({ length: one.ppSize }, (_, pp) =>
    Array.from({ length: one.tpSize }, (_, tp) => ({ rank: { ...one, pp, tp } })),
  ).flat()
}

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
    const prefills = ranksOf(p)
    const connected = ranksOf(d).map(({ rank }) =>
      requiredPrefillRanks(shape, rank, prefills, 0).map((found) => prefills.indexOf(found)),
    )
    expect(connected).toEqual(expected)
  },
)

test('the fingerprint of a shape depends on everything that it states, and on no order', () => {
  const one = shapeFingerprint(shape)
  expect(one).toHaveLength(16)
  const turned = {
    ...shape,
    settings: { b: '2', a: '1' },
    components: [{ name: 'kv', addressed: 'tokens' as const, tensors: [...tensors].reverse() }],
  }
  expect(shapeFingerprint(turned)).toEqual(one)
  const [component] = shape.components
  const withTensor = (change: object) => ({
    ...shape,
    components: [{ ...component!, tensors: [{ ...tensors[0]!, ...change }, ...tensors.slice(1)] }],
  })
  for (const other of [
    { ...shape, model: 'n' },
    { ...shape, settings: { a: '1' } },
    { ...shape, layers: 5 },
    { ...shape, components: [{ ...component!, name: 'swa' }] },
    { ...shape, components: [{ ...component!, window: 4 }] },
    withTensor({ part: 'v' }),
    withTensor({ dtype: 'bf16' }),
    withTensor({ units: 4 }),
    withTensor({ unitBytes: 16 }),
    withTensor({ elementBytes: 2 }),
    withTensor({ tokensPerRow: 2 }),
  ]) {
    expect(shapeFingerprint(other), JSON.stringify(other)).not.toEqual(one)
  }
})

test('the digest of a prompt is the one of its ids as little-endian int32, whatever holds them', () => {
  // python3: hashlib.sha256(struct.pack('<3i', 1, 128000, 2**31 - 1)).hexdigest()[:32]
  expect(Buffer.from(promptDigest([1, 128_000, 2 ** 31 - 1])).toString('hex')).toBe(
    '3774dc9f100b218243af16eabffdebf6',
  )
  expect(promptDigest([1, 2, 3])).toEqual(promptDigest(Int32Array.of(1, 2, 3)))
  expect(promptDigest([1, 2, 3])).not.toEqual(promptDigest([1, 2]))
  expect(promptDigest([1, 2, 3])).not.toEqual(promptDigest([1, 3, 2]))
  expect(promptDigest([])).toHaveLength(16)
})
