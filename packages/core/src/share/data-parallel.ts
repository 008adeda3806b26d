/**
 * Which of prefill's data-parallel ranks computes a request: its caller says so, or the prefill host chooses one and publishes
 * it at the bootstrap service, or it follows from the room alone.
 */
import type { Rank } from './rank.ts'

/** A rank that is given, or `published`: by the prefill host that chose it. Undefined: `room mod dpSize`. */
export type DpRank = number | 'published' | undefined

/** Prefill's data-parallel rank of a request that names none: both sides and the router know it from the room, as in SGLang. */
export function dpRankOf(room: bigint, dpSize: number): number {
  return Number(room % BigInt(dpSize))
}

/**
 * The rank that computes a request; undefined while it has not been published.
 *
 * @param published what the bootstrap service has said of the room
 */
export function chosenDpRank(
  { room, dpRank }: { readonly room: bigint; readonly dpRank: DpRank },
  dpSize: number,
  published: number | undefined,
): number | undefined {
  if (dpRank === undefined) return dpRankOf(room, dpSize)
  if (dpRank !== 'published') return dpRank
  return dpSize === 1 ? 0 : published
}

/** Why a rank of prefill cannot be the one that computes a request, in words, or undefined. */
export function sendingObjection(
  { dp, dpSize }: Pick<Rank, 'dp' | 'dpSize'>,
  room: bigint,
  dpRank: DpRank,
): string | undefined {
  if (dpRank === 'published' || dpRank === dp) return undefined
  const own = `data-parallel rank ${String(dp)} of ${String(dpSize)}`
  if (dpRank !== undefined)
    return `dpRank must be ${String(dp)}, as this is ${own}, got ${String(dpRank)}`
  const by = dpRankOf(room, dpSize)
  if (by === dp) return undefined
  return `room ${String(room)} belongs to data-parallel rank ${String(by)} (room mod ${String(dpSize)}), and this is ${own}; send it there, or state dpRank on both sides`
}

/** One rank of each data-parallel group publishes for all of them. */
export function isPublisher({ tp, pp, cp, dpSize }: Rank): boolean {
  return dpSize > 1 && tp === 0 && pp === 0 && cp === 0
}
