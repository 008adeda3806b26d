/** Which layers and units of a shape a rank holds: its coordinates alone say so. */
import type { TensorShape } from '../shape/index.ts'
import type { Rank } from './rank.ts'

/** Half-open. */
export type Range = readonly [first: number, end: number]

/** Layers of a rank's pipeline stage. */
export function stageOf({ pp, stages }: Rank): Range {
  return [stages[pp] ?? 0, stages[pp + 1] ?? 0]
}

/**
 * Units of a tensor that a rank of its stage holds. With more ranks than units each holds one, and `tpSize / units`
 * neighbours hold the same.
 */
export function unitsOf({ tp, tpSize }: Rank, units: number): Range {
  const first = Math.floor((tp * units) / tpSize)
  return [first, tpSize >= units ? first + 1 : Math.floor(((tp + 1) * units) / tpSize)]
}

/** Units of the tensor that the rank holds; undefined where it belongs to another stage. */
export function heldUnits(rank: Rank, { layer, units }: TensorShape): Range | undefined {
  const [first, end] = stageOf(rank)
  return layer < first || layer >= end ? undefined : unitsOf(rank, units)
}

/** The part that both ranges have; undefined when there is none. */
export function overlap(a: Range, b: Range): Range | undefined {
  const [first, end] = [Math.max(a[0], b[0]), Math.min(a[1], b[1])]
  return first < end ? [first, end] : undefined
}
