/** Plans as engines get them: few rows, and none for pages that do not exist. Which bytes they move, @kvx/proofs proves. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { groupWidth, laneWidth } from '@kvx/contract'
import type { Place } from '../../src/place/index.ts'
import { GroupList } from '../../src/plan/group-list.ts'
import { Pairing, type RequestPart, type TokenPart } from '../../src/plan/index.ts'
import type { CacheShape } from '../../src/shape/index.ts'
import { makeRank } from '../../src/share/index.ts'

const layers = 4
const [pageTokens, pages, slots] = [16, 8, 4]
const [units, unitBytes] = [3, 128]
const kv = Array.from({ length: 2 * layers }, (_, i) => ({
  ...{ layer: i >> 1, part: i % 2 === 0 ? 'k' : 'v', dtype: 'bf16', units, unitBytes },
}))
const shape: CacheShape = {
  model: 'm',
  layers,
  components: [
    { name: 'kv', addressed: 'tokens', tensors: kv },
    {
      name: 'mamba',
      addressed: 'request',
      tensors: [{ layer: 1, part: 'ssm', dtype: 'f32', units, unitBytes: 8 }],
    },
  ],
}
const pageBytes = pageTokens * units * unitBytes

/** One tensor after the other, with so many tokens in each of so many pages. */
function placeOf(tokens: number, count = pages): Place {
  const bytes = tokens * units * unitBytes
  return {
    components: { kv: { pageTokens: tokens, pages: count }, mamba: { pages: slots } },
    tensors: [
      ...kv.map(({ layer, part }, i) => ({
        ...{ component: 'kv', layer, part, region: 0, pageBytes: bytes, order: 'NHD' as const },
        base: i * count * bytes,
      })),
      {
        ...{ component: 'mamba', layer: 1, part: 'ssm', region: 1, base: 0, order: 'NHD' as const },
        pageBytes: units * 8,
      },
    ],
  }
}
const rank = makeRank(layers)
const pair = (from: Place, to: Place) =>
  new Pairing(shape, { rank, place: from }, { rank, place: to })
const equal = pair(placeOf(pageTokens), placeOf(pageTokens))
const list = (...numbers: number[]) => Int32Array.from(numbers)
const prompt = { tokens: 3 * pageTokens, prefix: 0 }
const part = (change: Partial<TokenPart> = {}): TokenPart => ({
  ...{ component: 'kv', prompt, first: 0, source: list(3, 4, 6), destination: list(0, 1, 2) },
  ...change,
})
const state = (change: Partial<RequestPart> = {}): RequestPart => ({
  ...{ component: 'mamba', source: list(1), destination: list(2) },
  ...change,
})

test('what lies alike on both sides moves as one run per page', () => {
  expect(equal.lanes).toHaveLength((2 * layers + 1) * laneWidth)
  for (let lane = 0; lane < 2 * layers; lane++) {
    expect([...equal.lanes.subarray(lane * laneWidth + 4, (lane + 1) * laneWidth)]).toEqual([
      ...[pageBytes, pageBytes, pageBytes, 1, 0, 0],
    ])
  }
})

test('pages of 64 tokens out of four pages of 16 move as one run of each', () => {
  const { lanes } = pair(placeOf(16), placeOf(64))
  const runs = Array.from({ length: lanes.length / laneWidth }, (_, lane) =>
    lanes.subarray(lane * laneWidth + 6, lane * laneWidth + 8),
  )
  // For each of the four places in the large page a lane per tensor, and the state.
  expect(runs).toHaveLength(4 * 2 * layers + 1)
  for (const [run, times] of runs.slice(0, -1)) expect([run, times]).toEqual([pageBytes, 1])
})

test('a plan joins what is consecutive on both sides, and takes the lanes of the layers that it moves', () => {
  const { plan, moved } = equal.plan([part({ layers: [1, 3] }), state()])
  expect([...plan.groups]).toEqual([...[3, 0, 2], ...[6, 2, 1], ...[1, 2, 1]])
  expect([...plan.blocks]).toEqual([...[0, 2, 2, 6], ...[2, 3, 8, 9]])
  expect(moved).toEqual([
    { units: 2 * prompt.tokens, bytes: 3 * 4 * pageBytes },
    { units: 1, bytes: units * 8 },
  ])
})

test('pages of two components, and pages of equal numbers of one, do not run into one another', () => {
  const { plan } = equal.plan([
    part({ source: list(0), first: 0, prompt: { tokens: 16, prefix: 0 }, destination: list(0) }),
    state({ source: list(1), destination: list(1) }),
  ])
  expect([...plan.groups]).toEqual([...[0, 0, 1], ...[1, 1, 1]])
})

test('groups hold every pair of pages once, in order, and are as few as possible', () => {
  const page = fc.nat(6)
  fc.assert(
    fc.property(fc.array(fc.tuple(page, page), { maxLength: 200 }), (pairs) => {
      const groups = new GroupList(pairs.length)
      for (const [from, to] of pairs) groups.add(from, to)
      const rows = groups.rows()
      const unfolded: number[][] = []
      for (let row = 0; row < rows.length; row += groupWidth) {
        for (let p = 0; p < (rows[row + 2] ?? 0); p++)
          unfolded.push([(rows[row] ?? 0) + p, (rows[row + 1] ?? 0) + p])
      }
      expect(unfolded).toEqual(pairs)
      const breaks = pairs.filter(([from, to], i) => {
        const [lastFrom = -2, lastTo = -2] = pairs[i - 1] ?? []
        return from !== lastFrom + 1 || to !== lastTo + 1
      })
      expect(groups.length).toBe(breaks.length)
    }),
  )
})

test.each<[string, readonly (TokenPart | RequestPart)[], string]>([
  [
    'a source page that does not exist',
    [part({ source: list(3, 8, 6) })],
    "The source page 8 does not exist: 'kv' has 8 there.",
  ],
  [
    'a source page that was never named',
    [part({ source: list(3, -1, 6) })],
    'The source page -1 does not exist',
  ],
  [
    'a destination page that does not exist',
    [part({ destination: list(0, -1, 2) })],
    'The destination page -1 does not exist',
  ],
  [
    'pages that decode has not provided',
    [part({ destination: list(0, 1) })],
    "Decode has provided 2 pages of 'kv', and the one at position 2 is missing.",
  ],
  [
    'an unknown component',
    [part({ component: 'swa' })],
    "The two ranks share no tensor of the component 'swa'.",
  ],
  ['pages of a state', [part({ component: 'mamba' })], "'mamba' is addressed by request"],
  ['slots of pages', [state({ component: 'kv' })], "'kv' is addressed by tokens"],
  [
    'unequal numbers of slots',
    [state({ source: list(0, 1) })],
    "Prefill has 2 slots of 'mamba' for the request, decode 1.",
  ],
  ['a slot that does not exist', [state({ source: list(4) })], 'The source page 4 does not exist'],
])('%s are refused, and nothing is planned', (_, parts, text) => {
  expect(() => equal.plan(parts)).toThrow(
    expect.objectContaining({
      code: 'ERR_KVX_PLAN_INVALID',
      message: expect.stringContaining(text) as string,
    }),
  )
})

test('what a part moves is known before the pages are, and is what its plan moves', () => {
  const sizes = fc.constantFrom(1, 2, 4, 6, 16)
  const given = fc.record({
    from: sizes,
    to: sizes,
    tokens: fc.integer({ min: 1, max: 60 }),
    first: fc.nat(10),
    count: fc.nat(10),
    prefixPages: fc.nat(4),
    layers: fc.constantFrom<readonly [number, number] | undefined>(undefined, [0, 1], [2, 4]),
  })
  fc.assert(
    fc.property(given, ({ from, to, tokens, first, count, prefixPages, layers: some }) => {
      const pairing = pair(placeOf(from, 70), placeOf(to, 70))
      const whole = { tokens, prefix: Math.min(tokens, prefixPages * to) }
      const needed = pairing.pages('kv', whole).destination
      const destination = Int32Array.from({ length: needed[1] - needed[0] }, (_, i) => i)
      const all = Math.ceil(tokens / from)
      const least = Math.min(first, all)
      const source = Int32Array.from({ length: Math.min(count, all - least) }, (_, i) => i)
      const about = { component: 'kv', layers: some, prompt: whole, first: least }
      const { moved } = pairing.plan([{ ...about, source, destination }])
      expect(moved[0]?.units).toBe(pairing.units({ ...about, count: source.length }))
      const everything = { ...about, first: 0, layers: undefined }
      const every = Int32Array.from({ length: all }, (_, i) => i)
      expect(pairing.plan([{ ...everything, source: every, destination }]).moved[0]).toEqual(
        pairing.expected('kv', { prompt: whole, slots: 0 }),
      )
    }),
    { numRuns: 1_000 },
  )
})
