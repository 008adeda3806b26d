/** Ranks as a caller states them: checked before anything is made of them. */
import * as v from 'valibot'
import { KvxError } from '@kvx/contract'
import { checked, context, exactly, integer, such } from '../arguments.ts'
import { makeRank as rankOf, maxRanks, rankObjection, type Rank } from './rank.ts'
import { dpRankOf as dpRankFor } from './data-parallel.ts'

const natural = integer(0)
const size = integer(1, maxRanks)
const entries = {
  tp: natural,
  tpSize: size,
  pp: natural,
  ppSize: size,
  cp: natural,
  cpSize: size,
  dp: natural,
  dpSize: size,
  context,
  stages: v.array(natural, 'an array of layer numbers'),
}

/** Each field of a rank, and a rank that can be. */
export const wholeRank = v.pipe(
  exactly(entries),
  v.rawCheck(({ dataset, addIssue }) => {
    const wrong = dataset.typed ? rankObjection(dataset.value) : undefined
    if (wrong !== undefined) addIssue({ message: `${wrong}.` })
  }),
)

const optional = <S extends v.GenericSchema>(schema: S) => v.optional(schema)
/** What a host states of its rank; whether it can be is known with the rest. */
export const statedRank = exactly({
  tp: optional(natural),
  tpSize: optional(size),
  pp: optional(natural),
  ppSize: optional(size),
  cp: optional(natural),
  cpSize: optional(size),
  dp: optional(natural),
  dpSize: optional(size),
  context: optional(context),
  stages: optional(entries.stages),
})

/** A data-parallel rank of prefill, as a request states it. */
export const statedDpRank = such<number | 'published'>(
  "an integer from 0 on, or 'published'",
  (value) => value === 'published' || (Number.isSafeInteger(value) && Number(value) >= 0),
)

const argument = { code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'open' } as const
const layerCount = integer(1)
const room = such<bigint>(
  'a bigint from 0n to 2n ** 64n - 1n',
  (value) => typeof value === 'bigint' && value >= 0n && value < 1n << 64n,
)

/**
 * A rank from what a host states of it: coordinates are 0, sizes 1, and the layers are spread evenly over the stages, unless
 * given.
 *
 * @param layers of the whole model
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function makeRank(layers: number, given: Partial<Rank> = {}): Rank {
  checked(layerCount, layers, { ...argument, name: 'layers' })
  checked(statedRank, given, { ...argument, name: 'rank' })
  const rank = rankOf(layers, given)
  const wrong = rankObjection(rank)
  if (wrong === undefined) return rank
  throw new KvxError('ERR_KVX_INVALID_ARGUMENT', `rank: ${wrong}.`, { phase: 'open' })
}

/**
 * Prefill's data-parallel rank of a request that does not state `dpRank`: both sides and the router know it from the room
 * alone, as in SGLang.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function dpRankOf(of: bigint, dpSize: number): number {
  checked(room, of, { ...argument, name: 'room' })
  checked(size, dpSize, { ...argument, name: 'dpSize' })
  return dpRankFor(of, dpSize)
}
