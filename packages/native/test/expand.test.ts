import { expand } from '@kvx/native'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { bytesOf, lane, planOf, world, type LaneFields } from './plans.ts'

/** Rows of `expand` as objects. */
function segmentsOf(...args: Parameters<typeof expand>) {
  const rows = expand(...args)
  return Array.from({ length: rows.length / 5 }, (_, i) => {
    const [source = 0, destination = 0, from = 0, to = 0, bytes = 0] = rows.subarray(i * 5)
    return { source, destination, from, to, bytes }
  })
}

test('a plan copies exactly the bytes of the naive reference, each destination byte once', () => {
  fc.assert(
    fc.property(world, fc.nat(20), ({ plan, sourceBytes, destinationBytes }, longest) => {
      // Where each destination byte comes from, as region · 2^20 + offset; plain numbers, since
      // there are many.
      const key = (region: number, offset: number): number => region * 2 ** 20 + offset
      const expected = new Map<number, number>()
      let twice = 0
      for (const { from, to } of bytesOf(plan)) {
        if (expected.has(key(...to))) twice++ // then the generator is at fault
        expected.set(key(...to), key(...from))
      }
      const landed = new Map<number, number>()
      for (const { source, destination, from, to, bytes } of segmentsOf(
        plan,
        sourceBytes,
        destinationBytes,
        longest,
      )) {
        expect(bytes).toBeGreaterThan(0)
        if (longest > 0) expect(bytes).toBeLessThanOrEqual(longest)
        expect(from + bytes).toBeLessThanOrEqual(sourceBytes[source] ?? -1)
        expect(to + bytes).toBeLessThanOrEqual(destinationBytes[destination] ?? -1)
        for (let i = 0; i < bytes; i++) {
          if (landed.has(key(destination, to + i))) twice++
          landed.set(key(destination, to + i), key(source, from + i))
        }
      }
      expect(twice).toBe(0)
      const wrong = [...expected].filter(([to, from]) => landed.get(to) !== from)
      expect({ wrong, landed: landed.size }).toEqual({ wrong: [], landed: expected.size })
    }),
    { numRuns: 300 },
  )
})

test('no two neighbouring segments could have been one', () => {
  fc.assert(
    fc.property(world, ({ plan, sourceBytes, destinationBytes }) => {
      const segments = segmentsOf(plan, sourceBytes, destinationBytes)
      for (const [i, next] of segments.slice(1).entries()) {
        const before = segments[i]
        expect(
          before?.source === next.source &&
            before.destination === next.destination &&
            before.from + before.bytes === next.from &&
            before.to + before.bytes === next.to,
        ).toBe(false)
      }
    }),
  )
})

test('consecutive pages become one segment, also across groups', () => {
  const plan = planOf(
    [lane({ runBytes: 4, runs: 4 })],
    [
      [0, 4, 2],
      [2, 6, 3],
      [9, 0, 1],
    ],
  )
  expect(segmentsOf(plan, [160], [160])).toEqual([
    { source: 0, destination: 0, from: 0, to: 64, bytes: 80 },
    { source: 0, destination: 0, from: 144, to: 0, bytes: 16 },
  ])
})

test('lanes of a block apply to its groups and to no others', () => {
  const plan = planOf(
    [lane(), lane({ sourceRegion: 1 })],
    [
      [0, 1, 1],
      [2, 3, 1],
    ],
    [
      [0, 1, 0, 1],
      [1, 2, 1, 2],
    ],
  )
  expect(segmentsOf(plan, [64, 64], [64])).toEqual([
    { source: 0, destination: 0, from: 0, to: 16, bytes: 16 },
    { source: 1, destination: 0, from: 32, to: 48, bytes: 16 },
  ])
})

test('groups of zero pages, lanes of zero runs and empty plans move nothing', () => {
  expect(expand(planOf([], []), [], [])).toHaveLength(0)
  expect(expand(planOf([lane({ sourceRegion: 7 })], [[9, 9, 0]]), [16], [16])).toHaveLength(0)
  expect(expand(planOf([lane({ runs: 0 })], [[0, 0, 1]]), [16], [16])).toHaveLength(0)
  expect(expand(planOf([lane({ runBytes: 0 })], [[0, 0, 1]]), [16], [16])).toHaveLength(0)
})

const fields: (keyof LaneFields)[] = [
  'sourceRegion',
  'destinationRegion',
  'sourceBase',
  'destinationBase',
  'sourcePageBytes',
  'destinationPageBytes',
  'runBytes',
  'runs',
  'sourceStride',
  'destinationStride',
]

for (const field of fields) {
  test(`a plan whose ${field} is no integer from 0 to 2^53 is refused`, () => {
    for (const bad of [-1, 0.5, NaN, Infinity, -Infinity, 2 ** 53 + 2, 2 ** 64]) {
      const plan = planOf([lane({ [field]: bad })], [[0, 0, 1]])
      expect(() => expand(plan, [64], [64])).toThrow(
        expect.objectContaining({ code: 'ERR_KVX_PLAN_INVALID' }),
      )
    }
  })

  test(`the largest ${field} neither overflows nor reaches outside`, () => {
    const plan = planOf([lane({ runs: 2, [field]: 2 ** 53 })], [[2 ** 31 - 2, 0, 1]])
    expect(() => expand(plan, [64], [64])).toThrow(
      expect.objectContaining({ code: 'ERR_KVX_PLAN_INVALID' }),
    )
  })
}

test('a plan that would reach one byte outside a region is refused, and says where', () => {
  const plan = planOf([lane()], [[3, 1, 1]])
  expect(expand(plan, [64], [32])).toHaveLength(5)
  expect(() => expand(plan, [63], [32])).toThrow(
    /lane 0 reaches byte 64 of source region 0, .* 63 bytes/,
  )
  expect(() => expand(plan, [64], [31])).toThrow(/lane 0 reaches byte 32 of destination region 0/)
  expect(() => expand(plan, [], [32])).toThrow(/source region 0, but there are only 0/)
})

test('negative pages, counts and block bounds are refused', () => {
  for (const group of [
    [-1, 0, 1],
    [0, -1, 1],
    [0, 0, -1],
  ] as [number, number, number][]) {
    expect(() => expand(planOf([lane()], [group]), [64], [64])).toThrow(/negative/)
  }
  for (const block of [
    [-1, 1, 0, 1],
    [0, 2, 0, 1],
    [1, 0, 0, 1],
    [0, 1, 0, 2],
    [0, 1, 1, 0],
    [0, 1, -1, 1],
  ]) {
    expect(() => expand(planOf([lane()], [[0, 0, 1]], [block]), [64], [64])).toThrow(
      expect.objectContaining({ code: 'ERR_KVX_PLAN_INVALID' }),
    )
  }
})

test('rows of the wrong width and arrays of the wrong type are refused', () => {
  const plan = planOf([lane()], [[0, 0, 1]])
  for (const bad of [
    { ...plan, lanes: plan.lanes.subarray(1) },
    { ...plan, groups: plan.groups.subarray(1) },
    { ...plan, blocks: plan.blocks.subarray(1) },
    { ...plan, lanes: Array.from(plan.lanes) as never },
    { ...plan, groups: new Float64Array(3) as never },
  ]) {
    expect(() => expand(bad, [64], [64])).toThrow(
      expect.objectContaining({ code: 'ERR_KVX_PLAN_INVALID' }),
    )
  }
})

test('a plan that writes destination bytes twice is refused, however small it looks', () => {
  const overlapping = [
    planOf([lane({ runs: 3, destinationStride: 15, sourceStride: 16 })], [[0, 0, 1]]),
    planOf([lane({ runs: 2 ** 53, sourceStride: 0, destinationStride: 0 })], [[0, 0, 1]]),
    planOf([lane({ destinationPageBytes: 15 })], [[0, 0, 2]]),
    planOf([lane(), lane(), lane(), lane(), lane()], [[0, 0, 1]]),
  ]
  for (const plan of overlapping) expect(() => expand(plan, [64], [64])).toThrow(/twice/)
})
