/** Where a rank stands in its instance. */
import { maxRanks, rankCount } from '../share/rank.ts'

export { maxRanks, rankCount, rankName, sameRank } from '../share/rank.ts'

/** Coordinates of a rank within its instance: tensor, pipeline, context and data parallel, with sizes. */
export interface Rank {
  readonly tp: number
  readonly tpSize: number
  readonly pp: number
  readonly ppSize: number
  readonly cp: number
  readonly cpSize: number
  readonly dp: number
  readonly dpSize: number
  /** `ppSize + 1` layer numbers: pipeline stage s holds layers `stages[s]` to `stages[s + 1]`, exclusive. */
  readonly stages: readonly number[]
}

/**
 * A rank from what a host states of it: coordinates are 0, sizes 1, and the layers are spread evenly
 * over the stages, unless given.
 *
 * @param layers of the whole model
 */
export function makeRank(layers: number, given: Partial<Rank> = {}): Rank {
  const { ppSize = 1 } = given
  const stages = Array.from({ length: ppSize + 1 }, (_, stage) =>
    Math.floor((stage * layers) / ppSize),
  )
  const alone = { tp: 0, tpSize: 1, pp: 0, ppSize, cp: 0, cpSize: 1, dp: 0, dpSize: 1, stages }
  return { ...alone, ...given }
}

/** What is wrong with the numbers of a rank, or undefined. */
export function rankObjection(rank: Rank): string | undefined {
  for (const [axis, at, size] of [
    ['tp', rank.tp, rank.tpSize],
    ['pp', rank.pp, rank.ppSize],
    ['cp', rank.cp, rank.cpSize],
    ['dp', rank.dp, rank.dpSize],
  ] as const) {
    if (!Number.isSafeInteger(size) || size < 1) {
      return `${axis}Size is ${String(size)}, which is no whole number from 1 on`
    }
    if (!Number.isSafeInteger(at) || at < 0 || at >= size) {
      return `${axis} is ${String(at)}, which is no whole number from 0 to ${String(size - 1)}`
    }
  }
  if (rankCount(rank) > maxRanks) {
    return `the instance has ${String(rankCount(rank))} ranks, more than ${String(maxRanks)}`
  }
  const { stages, ppSize } = rank
  const ascending = stages.every(
    (layer, i) =>
      Number.isSafeInteger(layer) && (i === 0 ? layer === 0 : layer > (stages[i - 1] ?? 0)),
  )
  if (stages.length !== ppSize + 1 || !ascending) {
    return `stages must be ${String(ppSize + 1)} ascending layer numbers from 0 on`
  }
  return undefined
}
