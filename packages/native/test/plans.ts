import type { TransferPlan } from '@kvx/contract'
import fc from 'fast-check'

export interface LaneFields {
  sourceRegion?: number
  destinationRegion?: number
  sourceBase?: number
  destinationBase?: number
  sourcePageBytes?: number
  destinationPageBytes?: number
  runBytes?: number
  runs?: number
  sourceStride?: number
  destinationStride?: number
}

/** One lane's row; what is left out describes pages of 16 contiguous bytes. */
export function lane(fields: LaneFields = {}): number[] {
  const runBytes = fields.runBytes ?? 16
  return [
    fields.sourceRegion ?? 0,
    fields.destinationRegion ?? 0,
    fields.sourceBase ?? 0,
    fields.destinationBase ?? 0,
    fields.sourcePageBytes ?? 16,
    fields.destinationPageBytes ?? 16,
    runBytes,
    fields.runs ?? 1,
    fields.sourceStride ?? runBytes,
    fields.destinationStride ?? runBytes,
  ]
}

/** A plan with one block over everything, unless blocks are given. */
export function planOf(
  lanes: readonly (readonly number[])[],
  groups: readonly (readonly [number, number, number])[],
  blocks: readonly (readonly number[])[] = [[0, groups.length, 0, lanes.length]],
): TransferPlan {
  return {
    lanes: Float64Array.from(lanes.flat()),
    groups: Int32Array.from(groups.flat()),
    blocks: Int32Array.from(blocks.flat()),
  }
}

export interface Copy {
  readonly from: readonly [region: number, offset: number]
  readonly to: readonly [region: number, offset: number]
}

/** The sentence of the contract, byte by byte. */
export function* bytesOf({ lanes, groups, blocks }: TransferPlan): Generator<Copy> {
  const at = (array: ArrayLike<number>, index: number): number => array[index] ?? NaN
  for (let b = 0; b < blocks.length; b += 4) {
    for (let l = at(blocks, b + 2); l < at(blocks, b + 3); l++) {
      const field = (i: number): number => at(lanes, l * 10 + i)
      for (let g = at(blocks, b); g < at(blocks, b + 1); g++) {
        for (let p = 0; p < at(groups, g * 3 + 2); p++) {
          for (let k = 0; k < field(7); k++) {
            const from = field(2) + (at(groups, g * 3) + p) * field(4) + k * field(8)
            const to = field(3) + (at(groups, g * 3 + 1) + p) * field(5) + k * field(9)
            for (let i = 0; i < field(6); i++) {
              yield { from: [field(0), from + i], to: [field(1), to + i] }
            }
          }
        }
      }
    }
  }
}

export interface World {
  readonly plan: TransferPlan
  readonly sourceBytes: number[]
  readonly destinationBytes: number[]
}

/**
 * Valid plans: every lane has a part of its own in a source and a destination region, with its own page sizes, gaps
 * and runs; the pages of the groups of a block are distinct at the destination.
 */
export const world: fc.Arbitrary<World> = fc
  .record({
    sourceRegions: fc.integer({ min: 1, max: 3 }),
    destinationRegions: fc.integer({ min: 1, max: 3 }),
    pages: fc.integer({ min: 1, max: 12 }),
    blocks: fc.array(
      fc.record({
        seed: fc.array(fc.nat(1000), { minLength: 24, maxLength: 24 }),
        used: fc.integer({ min: 0, max: 12 }),
        consecutive: fc.boolean(),
        lanes: fc.array(
          fc.record({
            source: fc.nat(2),
            destination: fc.nat(2),
            runBytes: fc.integer({ min: 1, max: 9 }),
            runs: fc.integer({ min: 1, max: 4 }),
            sourceGap: fc.nat(3),
            destinationGap: fc.nat(3),
            sourcePad: fc.nat(5),
            destinationPad: fc.nat(5),
            lead: fc.nat(7),
          }),
          { minLength: 0, maxLength: 4 },
        ),
      }),
      { minLength: 0, maxLength: 3 },
    ),
  })
  .map(({ sourceRegions, destinationRegions, pages, blocks }) => {
    const sourceBytes = new Array<number>(sourceRegions).fill(0)
    const destinationBytes = new Array<number>(destinationRegions).fill(0)
    const lanes: number[][] = []
    const groups: [number, number, number][] = []
    const rows: number[][] = []
    for (const block of blocks) {
      const firstGroup = groups.length
      const firstLane = lanes.length
      const shuffled = (offset: number): number[] =>
        Array.from({ length: pages }, (_, page) => page).sort(
          (a, b) => (block.seed[a + offset] ?? 0) - (block.seed[b + offset] ?? 0) || a - b,
        )
      const used = Math.min(block.used, pages)
      if (block.consecutive) groups.push([pages - used, 0, used])
      else {
        const sources = shuffled(0)
        const destinations = shuffled(12)
        for (let i = 0; i < used; i++) groups.push([sources[i] ?? 0, destinations[i] ?? 0, 1])
      }
      for (const one of block.lanes) {
        const source = one.source % sourceRegions
        const destination = one.destination % destinationRegions
        const sourceStride = one.runBytes + one.sourceGap
        const destinationStride = one.runBytes + one.destinationGap
        const sourcePageBytes = one.runs * sourceStride + one.sourcePad
        const destinationPageBytes = one.runs * destinationStride + one.destinationPad
        const sourceBase = (sourceBytes[source] ?? 0) + one.lead
        const destinationBase = (destinationBytes[destination] ?? 0) + one.lead
        sourceBytes[source] = sourceBase + pages * sourcePageBytes
        destinationBytes[destination] = destinationBase + pages * destinationPageBytes
        lanes.push(
          lane({
            sourceRegion: source,
            destinationRegion: destination,
            sourceBase,
            destinationBase,
            sourcePageBytes,
            destinationPageBytes,
            runBytes: one.runBytes,
            runs: one.runs,
            sourceStride,
            destinationStride,
          }),
        )
      }
      rows.push([firstGroup, groups.length, firstLane, lanes.length])
    }
    return { plan: planOf(lanes, groups, rows), sourceBytes, destinationBytes }
  })
