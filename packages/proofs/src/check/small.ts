/** A deployment as small as can be: two ranks, a cache of one component, deadlines of a few moments. */
import type { FenceKind } from '@kvx/contract'
import {
  makeRank,
  packPlace,
  packShape,
  type CacheShape,
  type PackedPlace,
  type PackedShape,
  type Place,
  type Rank,
} from '@kvx/core/bytes'
import { defaultLimits, type DecodeState, type PrefillState } from '@kvx/core/protocol'

export const component = 'kv'
/** Of one layer of one page, which holds one token. */
export const pageBytes = 2
export const endpoint = 'tcp://prefill'
export const bootstrap = 'tcp://bootstrap'

type Settings = PrefillState['self']['deadlines']

/** Moments. Which of two passes first is as with the defaults, where that can matter. */
export const deadlines: Settings = {
  ping: 4,
  probe: 4,
  drain: 5,
  peerSilent: 10,
  recycle: 11,
  reserve: 12,
  hello: 15,
  transfer: 20,
  linger: 20,
  pairing: 30,
  progress: 40,
  queue: 60,
}
/** No state tells apart what lies further back, or ahead. */
export const horizon = 1 + Math.max(...Object.values<number>({ ...deadlines }))

/** What all processes of a world have in common. */
export interface Small {
  readonly rank: Rank
  readonly shape: CacheShape
  readonly place: Place
  readonly packed: { readonly shape: PackedShape; readonly place: PackedPlace }
  readonly limits: PrefillState['self']['limits']
  readonly fence: FenceKind
  readonly digest: Uint8Array
  readonly address: Uint8Array
  readonly regions: readonly Uint8Array[]
}

/** @param credit bytes that may be on their way to decode */
export function small(fence: FenceKind, layers: number, pages: number, credit: number): Small {
  const shape: CacheShape = {
    model: 'small',
    layers,
    components: [
      {
        name: component,
        addressed: 'tokens',
        tensors: Array.from({ length: layers }, (_, layer) => ({
          ...{ layer, part: 'k', dtype: 'f16', units: 1, unitBytes: pageBytes },
        })),
      },
    ],
  }
  const place: Place = {
    components: { [component]: { pageTokens: 1, pages } },
    tensors: Array.from({ length: layers }, (_, layer) => ({
      ...{ component, layer, part: 'k', region: 0, base: layer * pages * pageBytes, pageBytes },
      order: 'NHD',
    })),
  }
  return {
    rank: makeRank(layers),
    shape,
    place,
    packed: { shape: packShape(shape), place: packPlace(place) },
    limits: {
      ...defaultLimits,
      ...{ parkedPerPeer: 4, bytesInFlightPerPeer: credit, auxBytes: 8, requests: 4, peers: 4 },
    },
    fence,
    digest: new Uint8Array(16).fill(1),
    address: new Uint8Array(1),
    regions: [new Uint8Array(1)],
  }
}

export function prefillSelf(all: Small, incarnation: string): PrefillState['self'] {
  const { rank, shape, place, packed, limits, fence } = all
  return {
    ...{ incarnation, instance: 'prefill', rank, backend: 'small', version: '1', fence },
    ...{ staging: undefined, shape, place, packed, deadlines, limits },
  }
}

export function decodeSelf(all: Small, incarnation: string): DecodeState['self'] {
  const { rank, shape, place, packed, limits, fence } = all
  return {
    ...{ incarnation, session: `secret of ${incarnation}`, instance: 'decode', rank },
    ...{ backend: 'small', version: '1', fence, staging: undefined, shape, place, packed },
    ...{ prefixBlock: 1, verify: false, deadlines, limits },
  }
}

export function engineAddress(all: Small, generation: string): DecodeState['engine'] {
  return { generation, address: all.address, regions: all.regions }
}
