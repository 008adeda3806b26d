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
  type Range,
  type Rank,
} from '@kvx/core/bytes'
import { defaultLimits, type DecodeState, type PrefillState } from '@kvx/core/protocol'
import type { Spec } from './spec.ts'

export const component = 'kv'
/** Addressed by request; its slots are numbered as pages are. */
export const stateComponent = 'state'
/** Of one token in one layer, and of one slot. */
const unitBytes = 2
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
  /** From one page, or slot, to the next. */
  readonly pageBytes: number
  readonly packed: { readonly shape: PackedShape; readonly place: PackedPlace }
  readonly limits: PrefillState['self']['limits']
  readonly fence: FenceKind
  readonly verify: boolean
  readonly digest: Uint8Array
  readonly address: Uint8Array
  readonly regions: readonly Uint8Array[]
}

export function small({ fence, layers, pages, pageTokens, credit, byLayers, verify }: Spec): Small {
  const pageBytes = unitBytes * pageTokens
  const names = byLayers ? [component, stateComponent] : [component]
  const shape: CacheShape = {
    model: 'small',
    layers,
    components: names.map((name) => ({
      name,
      addressed: name === component ? 'tokens' : 'request',
      tensors: Array.from({ length: layers }, (_, layer) => ({
        ...{ layer, part: 'k', dtype: 'f16', units: 1, unitBytes },
      })),
    })),
  }
  const place: Place = {
    components: {
      [component]: { pageTokens, pages },
      ...(byLayers && { [stateComponent]: { pages } }),
    },
    tensors: names.flatMap((name, i) =>
      Array.from({ length: layers }, (_, layer) => ({
        ...{ component: name, layer, part: 'k', region: 0 },
        ...{ base: (i * layers + layer) * pages * pageBytes, pageBytes, order: 'NHD' as const },
      })),
    ),
  }
  return {
    rank: makeRank(layers),
    shape,
    place,
    pageBytes,
    packed: { shape: packShape(shape), place: packPlace(place) },
    limits: {
      ...defaultLimits,
      ...{ parkedPerPeer: 4, bytesInFlightPerPeer: credit, auxBytes: 8, requests: 4, peers: 4 },
    },
    fence,
    verify,
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
    ...{ prefixBlock: place.components[component]?.pageTokens ?? 1 },
    ...{ verify: all.verify, deadlines, limits },
  }
}

export function engineAddress(all: Small, generation: string): DecodeState['engine'] {
  return { generation, address: all.address, regions: all.regions }
}

/** Whole pages of the prompt that decode has already: these are not sent. */
export function skippedPages({ prefixTokens, pageTokens }: Spec): number {
  return Math.floor(prefixTokens / pageTokens)
}

/** A call of prefill's host: some pages of the prompt, or its state, in some layers. */
export interface HostWrite {
  readonly tokens: Range | undefined
  /** Undefined: none. */
  readonly pages: Range | undefined
  readonly withState: boolean
  readonly layers: Range
}

/** All of them for one prompt, in their order, unless it may be any (`byLayers`). */
export function writesOf(spec: Spec): HostWrite[] {
  const { layers, promptPages, pageTokens, wholeWrites, byLayers } = spec
  const tokens: Range = [0, promptPages * pageTokens]
  const pages: Range = [skippedPages(spec), promptPages]
  if (wholeWrites) return [{ tokens, pages, withState: false, layers: [0, layers] }]
  if (byLayers)
    return [
      { tokens, pages, withState: true, layers: [0, 1] },
      { tokens, pages, withState: false, layers: [1, layers] },
      { tokens: undefined, pages: undefined, withState: true, layers: [1, layers] },
    ]
  return Array.from({ length: promptPages }, (_, page) => ({
    tokens: [page * pageTokens, (page + 1) * pageTokens],
    pages: [page, page + 1],
    withState: false,
    layers: [0, layers],
  }))
}
