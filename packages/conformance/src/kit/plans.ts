/** Plans, and what a plan makes of a memory. */
import { eachCopy, type TransferPlan } from '@kvx/contract'

export interface LaneFields {
  readonly from?: number
  readonly to?: number
  readonly sourceBase?: number
  readonly destinationBase?: number
  readonly sourcePageBytes?: number
  readonly destinationPageBytes?: number
  readonly runBytes?: number
  readonly runs?: number
  readonly sourceStride?: number
  readonly destinationStride?: number
}

/** A lane's row; what is left out describes pages that are one run of `pageBytes`. */
export function lane(pageBytes: number, fields: LaneFields = {}): number[] {
  const runBytes = fields.runBytes ?? pageBytes
  return [
    ...[fields.from ?? 0, fields.to ?? 0, fields.sourceBase ?? 0, fields.destinationBase ?? 0],
    ...[fields.sourcePageBytes ?? pageBytes, fields.destinationPageBytes ?? pageBytes],
    ...[runBytes, fields.runs ?? 1],
    ...[fields.sourceStride ?? runBytes, fields.destinationStride ?? runBytes],
  ]
}

export type Group = readonly [sourcePage: number, destinationPage: number, count: number]

/** A plan with one block over everything, unless blocks are given. */
export function planOf(
  lanes: readonly (readonly number[])[],
  groups: readonly Group[],
  blocks: readonly (readonly number[])[] = [[0, groups.length, 0, lanes.length]],
): TransferPlan {
  return {
    lanes: Float64Array.from(lanes.flat()),
    groups: Int32Array.from(groups.flat()),
    blocks: Int32Array.from(blocks.flat()),
  }
}

/** All of region `from` to all of region `to`. */
export const whole = (bytes: number, from = 0, to = from): TransferPlan =>
  planOf([lane(bytes, { from, to })], [[0, 0, 1]])

/** Equal pages in reverse order, so that no two of them can be merged. */
export const reversed = (pageBytes: number, pages: number): TransferPlan =>
  planOf(
    [lane(pageBytes)],
    Array.from({ length: pages }, (_, page): Group => [page, pages - 1 - page, 1]),
  )

export function bytesOf(plan: TransferPlan): number {
  let sum = 0
  eachCopy(plan, (_source, _from, _destination, _to, bytes) => {
    sum += bytes
  })
  return sum
}

/** Carries a plan out between plain arrays, as the contract defines it. */
export function carryOut(
  plan: TransferPlan,
  sources: readonly Uint8Array[],
  destinations: readonly Uint8Array[],
): void {
  eachCopy(plan, (source, from, destination, to, bytes) => {
    destinations[destination]?.set(sources[source]?.subarray(from, from + bytes) ?? [], to)
  })
}
