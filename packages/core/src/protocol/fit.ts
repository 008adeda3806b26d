/** Whether two ranks can serve each other, from what they say of themselves. */
import { KvxError } from '@kvx/contract'
import { placeObjection, unpackPlace, type PackedPlace, type Place } from '../place/index.ts'
import { pagesWith, Pairing } from '../plan/index.ts'
import {
  checkSameShape,
  shapeObjection,
  unpackShape,
  type CacheShape,
  type PackedShape,
} from '../shape/index.ts'
import { maxPromptPages } from './settings.ts'
import { heldTokens, topologyObjection, type Rank } from '../share/index.ts'

/** What a rank says of itself in `hello` and `welcome`. */
export interface Introduced {
  readonly rank: Rank
  readonly shape: PackedShape
  readonly place: PackedPlace
}

/** This side. */
export interface Itself {
  readonly rank: Rank
  readonly shape: CacheShape
  readonly place: Place
}

/**
 * What prefill's rank sends to decode's. A peer's regions are checked by number; their sizes only the engine knows, which
 * refuses writes beyond them.
 *
 * @param regions that the peer has
 * @throws KvxError `ERR_KVX_LAYOUT_INVALID`, `ERR_KVX_LAYOUT_MISMATCH`, `ERR_KVX_PAGE_SIZE_MISMATCH`
 */
export function pairRanks(
  self: Itself,
  role: 'prefill' | 'decode',
  peer: Introduced,
  regions: number,
): Pairing {
  const shape = unpackShape(peer.shape)
  const place = unpackPlace(peer.place)
  checkIntroduced(
    role === 'prefill' ? 'Decode' : 'Prefill',
    { shape, place, rank: peer.rank },
    regions,
  )
  const other: Itself = { rank: peer.rank, shape, place }
  const [prefill, decode] = role === 'prefill' ? [self, other] : [other, self]
  checkSameShape(prefill.shape, decode.shape)
  const wrong = topologyObjection(self.shape, prefill.rank, decode.rank)
  if (wrong !== undefined) {
    throw new KvxError('ERR_KVX_LAYOUT_MISMATCH', `${wrong}.`, { phase: 'hello' })
  }
  return new Pairing(self.shape, prefill, decode)
}

/** @param who in the beginning of a sentence */
function checkIntroduced(who: string, { shape, place, rank }: Itself, regions: number): void {
  const wrong =
    shapeObjection(shape) ??
    placeObjection(shape, rank, place, new Array<number>(regions).fill(Number.MAX_SAFE_INTEGER))
  if (wrong === undefined) return
  throw new KvxError(
    'ERR_KVX_LAYOUT_INVALID',
    `${who} describes a cache that cannot be: ${wrong}.`,
    {
      phase: 'hello',
    },
  )
}

/** Why a prompt is too long for a rank, in a sentence, or undefined. */
export function sizeObjection({ shape, rank, place }: Itself, tokens: number): string | undefined {
  let all = 0
  for (const { name, window } of shape.components) {
    const pages = Object.hasOwn(place.components, name) ? place.components[name] : undefined
    if (pages?.pageTokens === undefined) continue
    const held = heldTokens(rank, tokens, pages.pageTokens)
    const counted = window === undefined ? 0 : Math.max(0, tokens - window)
    const [first, end] = pagesWith(held, pages.pageTokens, [counted, tokens])
    if (end - first > pages.pages) {
      return `A prompt of ${String(tokens)} tokens needs ${String(end - first)} pages of '${name}'; there are ${String(pages.pages)}.`
    }
    all += end - first
  }
  if (all <= maxPromptPages) return undefined
  return `A prompt of ${String(tokens)} tokens has ${String(all)} pages; there may be ${String(maxPromptPages)}. Larger pages make fewer.`
}
