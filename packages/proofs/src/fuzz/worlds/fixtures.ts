/** What the worlds are made of: a small cache, short deadlines, and names that are easy to tell apart. */
import { makeRank, packPlace, packShape, type CacheShape, type Place } from '@kvx/core/bytes'
import { defaultDeadlines, defaultLimits } from '@kvx/core/protocol'

export const pageTokens = 4
const layers = 1
const kvPages = 16
const statePages = 4
const pageBytes = 8
/** Bytes of a page of the cache over all tensors. */
export const kvBytes = layers * 2 * pageBytes

const kv = ['k', 'v'].map((part) => ({ layer: 0, part, dtype: 'f16', units: 1, unitBytes: 2 }))
const state = { layer: 0, part: 'state', dtype: 'f16', units: 1, unitBytes: 2, rows: 4 }
const placed = (component: string, part: string, base: number) =>
  ({ component, layer: 0, part, region: 0, base, pageBytes, order: 'NHD' }) as const

/** A layer of K and V, and one state component. */
export const cache: { readonly shape: CacheShape; readonly place: Place } = {
  shape: {
    model: 'small',
    layers,
    components: [
      { name: 'kv', addressed: 'tokens', tensors: kv },
      { name: 'mamba', addressed: 'request', tensors: [state] },
    ],
  },
  place: {
    components: { kv: { pageTokens, pages: kvPages }, mamba: { pages: statePages } },
    tensors: [
      placed('kv', 'k', 0),
      placed('kv', 'v', kvPages * pageBytes),
      placed('mamba', 'state', 2 * kvPages * pageBytes),
    ],
  },
}
export const memoryBytes = (2 * kvPages + statePages) * pageBytes
/** A cache as it travels. */
export const packedCache = () => ({
  shape: packShape(cache.shape),
  place: packPlace(cache.place),
})
export const rank = makeRank(layers)

/** 32 hex digits. */
export function name128(kind: string, number = 0): string {
  const text = Buffer.from(`${kind}${String(number)}`).toString('hex')
  return text.padEnd(32, '0').slice(0, 32)
}

/** Of the one prompt that there is. */
export const digest = () => new Uint8Array(16).fill(1)
const packed = (...pages: number[]) => new Uint8Array(Int32Array.from(pages).buffer)
/** What each component gets of a request: pages 5, 6 and 7, and these slots. */
export const pageLists = (...slots: number[]) => ({ kv: packed(5, 6, 7), mamba: packed(...slots) })
/** Of the prompt: three pages. */
export const tokens = 3 * pageTokens
/** Tokens times layers of it. */
export const units = tokens * layers

export const deadlines = {
  ...defaultDeadlines,
  hello: 5_000,
  reserve: 7_000,
  pairing: 20_000,
  progress: 30_000,
  queue: 50_000,
  transfer: 3_000,
  linger: 10_000,
  peerSilent: 6_000,
  ping: 1_000,
  drain: 2_000,
  recycle: 4_000,
}
/** Fewer than what is on its way. */
export const bays = { bays: 2, bayBytes: 4 * kvBytes }
/** Longer than any of them. */
export const longTime = 60_000

export const limits = {
  ...defaultLimits,
  parkedPerPeer: 8,
  bytesInFlightPerPeer: 64 * kvBytes,
  auxBytes: 64,
  requests: 32,
  peers: 8,
}

export const engineOf = () => ({
  backend: 'fake',
  version: '1',
  address: new Uint8Array(8),
  regions: [new Uint8Array(16)],
})
export const stagingOf = () => ({ region: new Uint8Array(16), bayBytes: bays.bayBytes })
