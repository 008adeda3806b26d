/** What the worlds are made of: a small cache, short deadlines, and names that are easy to tell apart. */
import { layoutFingerprint } from '../dist/layout/index.js'
import { defaultDeadlines, defaultLimits, makeRank } from '../dist/protocol/index.js'

export const pageTokens = 4
const layers = 1
const kvPages = 16
const statePages = 4
const pageBytes = 8
export const kvLayers = Array.from({ length: layers }, (_, layer) => layer)
/** Bytes of a page of the cache over all tensors. */
export const kvBytes = layers * 2 * pageBytes

/** A layer of K and V, and one state component. */
export function smallLayout() {
  const tensors = []
  let base = 0
  const add = (component, layer, part, pages) => {
    const place = { region: 0, base, pageBytes }
    const form = { dtype: 'f16', heads: [0, 1], headBytes: 2, order: 'token-major' }
    tensors.push({ component, layer, part, ...form, ...place })
    base += pages * pageBytes
  }
  for (const layer of kvLayers) for (const part of ['k', 'v']) add('kv', layer, part, kvPages)
  add('mamba', 0, 'latent', statePages)
  const pages = { kv: kvPages, mamba: statePages }
  return { model: 'small', pageTokens, layers, heads: 1, pages, tensors }
}

export const layout = smallLayout()
export const fingerprint = layoutFingerprint(layout)
export const rank = makeRank(layers)

/** 32 hex digits. */
export function name128(kind, number = 0) {
  const text = Buffer.from(`${kind}${number}`).toString('hex')
  return text.padEnd(32, '0').slice(0, 32)
}

export const digest = (number = 1) => new Uint8Array(16).fill(number)
export const packed = (...pages) => new Uint8Array(Int32Array.from(pages).buffer)

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
