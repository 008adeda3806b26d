/** Where a rank stands in its instance. */

/**
 * Which tokens of a prompt each of the context-parallel ranks holds: every rank all of them (they share the sending), a
 * run of its pages, or stretches of `interleave` tokens dealt out in turn.
 */
export type Context =
  | 'all'
  | 'contiguous'
  | {
      /** Tokens of a stretch, a positive integer. */
      readonly interleave: number
    }

/** As a host states it. */
export function contextName(context: Context): string {
  return typeof context === 'string'
    ? `'${context}'`
    : `{ interleave: ${String(context.interleave)} }`
}

/** Ranks that an instance may have. */
export const maxRanks = 4_096

/** Coordinates of a rank within its instance: tensor, pipeline, context and data parallel, with sizes. */
export interface Rank {
  /** Tensor-parallel rank, from 0. */
  readonly tp: number
  /** Ranks that divide the units of a tensor. */
  readonly tpSize: number
  /** Pipeline stage, from 0. */
  readonly pp: number
  /** Pipeline stages. */
  readonly ppSize: number
  /** Context-parallel rank, from 0. */
  readonly cp: number
  /** Ranks that divide, or share, the tokens of a prompt. */
  readonly cpSize: number
  /** The same for all ranks of an instance. */
  readonly context: Context
  /** Data-parallel rank, from 0. */
  readonly dp: number
  /** Data-parallel ranks: each has requests of its own. */
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
  const alone = { tp: 0, tpSize: 1, pp: 0, ppSize, cp: 0, cpSize: 1, dp: 0, dpSize: 1 } as const
  return { ...alone, context: 'all', stages, ...given }
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
      return `${axis}Size must be a positive integer, got ${String(size)}`
    }
    if (!Number.isSafeInteger(at) || at < 0 || at >= size) {
      return `${axis} must be an integer from 0 to ${String(size - 1)}, got ${String(at)}`
    }
  }
  if (rankCount(rank) > maxRanks) {
    return `an instance has at most ${String(maxRanks)} ranks, got ${String(rankCount(rank))}`
  }
  const { stages, ppSize } = rank
  const ascending = stages.every(
    (layer, i) =>
      Number.isSafeInteger(layer) && (i === 0 ? layer === 0 : layer > (stages[i - 1] ?? 0)),
  )
  if (stages.length !== ppSize + 1 || !ascending) {
    return `stages must be ${String(ppSize + 1)} ascending layer numbers from 0 on, got [${stages.join(', ')}]`
  }
  const { context } = rank
  if (
    typeof context === 'object' &&
    !(Number.isSafeInteger(context.interleave) && context.interleave > 0)
  ) {
    return `context.interleave must be a positive integer, got ${String(context.interleave)}`
  }
  return undefined
}

/** Ranks that the instance of this one has. */
export function rankCount({
  tpSize,
  ppSize,
  cpSize,
  dpSize,
}: Pick<Rank, 'tpSize' | 'ppSize' | 'cpSize' | 'dpSize'>): number {
  return tpSize * ppSize * cpSize * dpSize
}

type Coordinates = Pick<Rank, 'tp' | 'pp' | 'cp' | 'dp'>

/** Coordinates as they stand in messages and errors. */
export function rankName(rank: Coordinates): string {
  return `tp${String(rank.tp)}/pp${String(rank.pp)}/cp${String(rank.cp)}/dp${String(rank.dp)}`
}

/** The same place in instances that are divided alike. */
export function equalRanks(a: Rank, b: Rank): boolean {
  return (
    sameRank(a, b) &&
    a.tpSize === b.tpSize &&
    a.ppSize === b.ppSize &&
    a.cpSize === b.cpSize &&
    a.dpSize === b.dpSize &&
    JSON.stringify([a.context, a.stages]) === JSON.stringify([b.context, b.stages])
  )
}

export function sameRank(a: Coordinates, b: Coordinates): boolean {
  return a.tp === b.tp && a.pp === b.pp && a.cp === b.cp && a.dp === b.dp
}
