/**
 * Which ranks of the two sides meet for a request. One predicate answers for both, so that they cannot disagree.
 */
import { KvxError } from '@kvx/contract'
import type { CacheShape } from '../shape/index.ts'
import { electedUnits } from './elect.ts'
import { topologyObjection } from './objection.ts'
import { rankName, sameRank, type Rank } from './rank.ts'

/**
 * The ranks of one decode instance that a prefill rank sends to, given one of them; a room pairs when all of them have
 * reserved. A prefill rank of whose copies nobody takes anything has nothing to send, and still has to learn when its
 * request is over: one decode rank visits it.
 */
export function servedDecodeRanks(shape: CacheShape, prefill: Rank, decode: Rank): Rank[] {
  const all = allRanks(decode)
  const served = all.filter((rank) => sends(shape, prefill, rank))
  return served.length > 0 ? served : visitorOf(prefill, all)
}

/** Whether `decode` is one of `servedDecodeRanks`: most often found without looking at the others. */
function serves(shape: CacheShape, prefill: Rank, decode: Rank): boolean {
  if (sends(shape, prefill, decode)) return true
  const all = allRanks(decode)
  if (all.some((rank) => sends(shape, prefill, rank))) return false
  return visitorOf(prefill, all).some((rank) => sameRank(rank, decode))
}

/** Spreads the prefill ranks that have nothing to send over the decode ranks. */
function visitorOf({ tp, tpSize, cp }: Rank, decode: readonly Rank[]): Rank[] {
  const visitor = decode[(tp + cp * tpSize) % decode.length]
  return visitor ? [visitor] : []
}

/**
 * The prefill ranks that a decode rank connects to for a request of prefill's data-parallel rank `dp`.
 *
 * @param prefill all ranks of a prefill instance
 * @throws KvxError `ERR_KVX_LAYOUT_MISMATCH` when the topologies do not fit
 */
export function requiredPrefillRanks<T extends { readonly rank: Rank }>(
  shape: CacheShape,
  decode: Rank,
  prefill: readonly T[],
  dp: number,
): T[] {
  const found = prefill.filter(({ rank }) => {
    const wrong = topologyObjection(shape, rank, decode)
    if (wrong !== undefined) throw mismatch(`${wrong}.`, decode)
    return rank.dp === dp && serves(shape, rank, decode)
  })
  if (found.length === 0) {
    const text = `No rank of prefill's data-parallel rank ${String(dp)} holds anything for decode rank ${rankName(decode)}: are all of them registered?`
    throw mismatch(text, decode)
  }
  return found
}

/** Whether a prefill rank, of whichever data-parallel rank, has bytes for a decode rank. */
function sends(shape: CacheShape, prefill: Rank, decode: Rank): boolean {
  return shape.components.some((component) =>
    component.tensors.some(
      (tensor) => electedUnits(prefill, decode, component, tensor) !== undefined,
    ),
  )
}

/** All ranks of the data-parallel group of one. */
function allRanks(one: Rank): Rank[] {
  const ranks: Rank[] = []
  for (let pp = 0; pp < one.ppSize; pp++) {
    for (let cp = 0; cp < one.cpSize; cp++) {
      for (let tp = 0; tp < one.tpSize; tp++) ranks.push({ ...one, tp, pp, cp })
    }
  }
  return ranks
}

function mismatch(text: string, decode: Rank): KvxError {
  return new KvxError('ERR_KVX_LAYOUT_MISMATCH', text, {
    phase: 'bootstrap',
    rank: rankName(decode),
  })
}
