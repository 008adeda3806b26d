/**
 * Which ranks of one side hold bytes for a rank of the other. One predicate answers for both sides, so
 * that they cannot disagree.
 */
import { KvxError } from '@kvx/contract'
import { rankName, type Rank } from './rank.ts'

/**
 * Prefill's data-parallel rank that computes a request: both sides and the router know it from the room
 * alone, as in SGLang.
 */
export function dpRankOf(room: bigint, dpSize: number): number {
  return Number(room % BigInt(dpSize))
}

/**
 * The prefill ranks that a decode rank connects to for a request of prefill's data-parallel rank `dp`:
 * exactly those that hold bytes for it.
 *
 * @param prefill all ranks of a prefill instance
 * @param heads KV heads of the whole model
 * @throws KvxError `ERR_KVX_LAYOUT_MISMATCH` when the topologies do not fit
 */
export function requiredPrefillRanks<T extends { readonly rank: Rank }>(
  decode: Rank,
  prefill: readonly T[],
  heads: number,
  dp: number,
): T[] {
  const found = prefill.filter(({ rank }) => {
    const wrong = topologyObjection(rank, decode, heads)
    if (wrong !== undefined) throw mismatch(wrong, decode)
    return rank.dp === dp && sends(rank, decode, heads)
  })
  if (found.length === 0) throw mismatch('no prefill rank holds anything for it', decode)
  return found
}

/**
 * The ranks of one decode instance that a prefill rank sends to, given one of them. A room pairs when all
 * of them have reserved.
 */
export function servedDecodeRanks(prefill: Rank, decode: Rank, heads: number): Rank[] {
  const ranks: Rank[] = []
  for (let pp = 0; pp < decode.ppSize; pp++) {
    for (let tp = 0; tp < decode.tpSize; tp++) {
      const rank = { ...decode, tp, pp }
      if (sends(prefill, rank, heads)) ranks.push(rank)
    }
  }
  return ranks
}

/** Why two topologies do not fit, in words that follow a colon, or undefined. */
export function topologyObjection(prefill: Rank, decode: Rank, heads: number): string | undefined {
  if (prefill.cpSize !== decode.cpSize) {
    return `the context-parallel sizes differ, prefill has ${String(prefill.cpSize)}, decode ${String(decode.cpSize)}`
  }
  if (prefill.stages.at(-1) !== decode.stages.at(-1)) {
    return `the numbers of layers differ, prefill has ${String(prefill.stages.at(-1))}, decode ${String(decode.stages.at(-1))}`
  }
  for (const [side, { tpSize }] of [
    ['prefill', prefill],
    ['decode', decode],
  ] as const) {
    if (heads % tpSize !== 0 && tpSize % heads !== 0) {
      return `${side}'s ${String(tpSize)} tensor-parallel ranks cannot share ${String(heads)} KV heads evenly`
    }
  }
  // Copies of a head that no decode rank takes would leave prefill ranks without a partner.
  if (prefill.tpSize > heads && prefill.tpSize > decode.tpSize) {
    return `prefill's ${String(prefill.tpSize)} tensor-parallel ranks hold copies of ${String(heads)} KV heads, and decode's ${String(decode.tpSize)} ranks would not take from all of them`
  }
  return undefined
}

/** Whether a prefill rank, of whichever data-parallel rank, sends bytes to a decode rank. */
export function sends(prefill: Rank, decode: Rank, heads: number): boolean {
  if (prefill.cp !== decode.cp) return false
  if (!overlap(stageOf(prefill), stageOf(decode))) return false
  if (!overlap(headsOf(prefill, heads), headsOf(decode, heads))) return false
  // Where prefill holds copies of a head, the decode ranks that want it take turns.
  const copies = Math.max(1, prefill.tpSize / heads)
  const takers = Math.max(1, decode.tpSize / heads)
  return prefill.tp % copies === (decode.tp % takers) % copies
}

type Range = readonly [first: number, end: number]

function overlap(a: Range, b: Range): boolean {
  return a[0] < b[1] && b[0] < a[1]
}

/** Layers of a rank's pipeline stage. */
export function stageOf({ pp, stages }: Rank): Range {
  return [stages[pp] ?? 0, stages[pp + 1] ?? 0]
}

/** KV heads of a rank; with more ranks than heads, several hold the same one. */
export function headsOf({ tp, tpSize }: Rank, heads: number): Range {
  const first = Math.floor((tp * heads) / tpSize)
  return [first, tpSize >= heads ? first + 1 : Math.floor(((tp + 1) * heads) / tpSize)]
}

function mismatch(why: string, decode: Rank): KvxError {
  return new KvxError(
    'ERR_KVX_LAYOUT_MISMATCH',
    `Prefill does not fit decode rank ${rankName(decode)}: ${why}.`,
    { phase: 'bootstrap', rank: rankName(decode) },
  )
}
