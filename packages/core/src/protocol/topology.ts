/** Which ranks of one side hold bytes for a rank of the other. */
import { KvxError } from '../backend/index.ts'
import { rankName, sameRank } from './keys.ts'
import type { Rank } from './messages.ts'

export const singleRank: Rank = {
  tp: 0,
  tpSize: 1,
  pp: 0,
  ppSize: 1,
  cp: 0,
  cpSize: 1,
  dp: 0,
  dpSize: 1,
}

/**
 * The prefill ranks that a decode rank connects to, out of all ranks of a prefill instance.
 * @throws KvxError `ERR_KVX_LAYOUT_MISMATCH` when no rank fits
 */
export function requiredPrefillRanks<T extends { readonly rank: Rank }>(
  decode: Rank,
  prefill: readonly T[],
): T[] {
  const found = prefill.filter(
    (candidate) => sameSizes(candidate.rank, decode) && sameRank(candidate.rank, decode),
  )
  if (found.length === 0) {
    throw new KvxError(
      'ERR_KVX_LAYOUT_MISMATCH',
      `No prefill rank fits decode rank ${rankName(decode)}: both sides must have the same parallel sizes.`,
      { phase: 'bootstrap', rank: rankName(decode) },
    )
  }
  return found
}

/** The decode ranks that a prefill rank serves, given one of them. */
export function servedDecodeRanks(_prefill: Rank, decode: Rank): Rank[] {
  return [decode]
}

function sameSizes(a: Rank, b: Rank): boolean {
  return (
    a.tpSize === b.tpSize && a.ppSize === b.ppSize && a.cpSize === b.cpSize && a.dpSize === b.dpSize
  )
}
