/** What both sides of the protocol tests are made of: a small layout, names, and the real wire between them. */
import { decodeFrame, encodeMessage } from '../../src/control/codec.ts'
import { layoutFingerprint, type Layout, type Tensor } from '../../src/layout/index.ts'
import type { Deadlines, Limits } from '../../src/manager/types.ts'
import {
  parseMessage,
  makeRank,
  type Message,
  type MessageKind,
  type MessageOf,
} from '../../src/protocol/index.ts'

/** 32 hex digits that are easy to tell apart. */
export function name128(kind: string, number = 0): string {
  const text = Buffer.from(`${kind}${String(number)}`).toString('hex')
  return text.padEnd(32, '0').slice(0, 32)
}

export const pageTokens = 4
export const layers = 2
export const kvPages = 16
export const statePages = 4
/** Bytes of one page of one tensor. */
export const pageBytes = 8
/** Bytes of one page over all tensors of the component. */
export const kvBytes = layers * 2 * pageBytes

/** Two layers of K and V, and one state component of which each request has a page or none. */
export function smallLayout(change: Partial<Layout> = {}): Layout {
  const tensors: Tensor[] = []
  let base = 0
  const add = (component: string, layer: number, part: Tensor['part'], pages: number) => {
    tensors.push({
      component,
      layer,
      part,
      dtype: 'f16',
      region: 0,
      base,
      pageBytes,
      heads: [0, 1],
      headBytes: 2,
      order: 'token-major',
    })
    base += pages * pageBytes
  }
  for (let layer = 0; layer < layers; layer++) {
    add('kv', layer, 'k', kvPages)
    add('kv', layer, 'v', kvPages)
  }
  add('mamba', 0, 'latent', statePages)
  return {
    model: 'small',
    pageTokens,
    layers,
    heads: 1,
    pages: { kv: kvPages, mamba: statePages },
    tensors,
    ...change,
  }
}

export const memoryBytes = (layers * 2 * kvPages + statePages) * pageBytes

/** Milliseconds; small, and each different from the others, so that a test tells which one it hit. */
export const deadlines: Deadlines = {
  hello: 5_000,
  probe: 1_500,
  reserve: 7_000,
  pairing: 20_000,
  progress: 30_000,
  queue: 70_000,
  transfer: 3_000,
  linger: 10_000,
  peerSilent: 6_000,
  ping: 1_000,
  drain: 2_000,
  recycle: 4_000,
}

export const limits: Limits = {
  parkedPerPeer: 4,
  bytesInFlightPerPeer: 4 * kvBytes,
  auxBytes: 64,
  requests: 8,
  peers: 16,
  quarantineShare: 0.25,
}

export const fingerprint = layoutFingerprint(smallLayout())
export const digest = (number = 1) => new Uint8Array(16).fill(number)
export const rank = makeRank(layers)
export const int32 = (...values: number[]) => new Int32Array(values)
export const packed = (...values: number[]) => new Uint8Array(int32(...values).buffer)

/** A message as the other side gets it: through the codec and the schema. */
export function overTheWire(message: object): Message {
  const [decoded] = decodeFrame(encodeMessage(message as Record<string, unknown>))
  return parseMessage(decoded)
}

/** A message in a few words: `status(failed, drained outcome)` and the like, for tables of transitions. */
export function shortly(message: Message): string {
  switch (message.k) {
    case 'accept':
      return `accept(${message.state})`
    case 'refuse':
    case 'failed':
    case 'abort':
      return `${message.k}(${message.code.replace('ERR_KVX_', '')})`
    case 'progress':
      return `progress(${String(message.pages)})`
    case 'status':
      return `status(${message.state})`
    case 'reserve':
    case 'query':
    case 'ack':
    case 'drained':
      return message.k
    default:
      return message.k
  }
}

/** A valid message of every kind, with every optional field. */
export const samples: { [K in MessageKind]: MessageOf<K> } = (() => {
  const envelope = { v: 1 as const, from: name128('from'), to: name128('to') }
  const transfer = { ...envelope, gen: name128('gen'), ep: 7 }
  const failure = {
    code: 'ERR_KVX_TRANSFER_FAILED',
    text: 'it broke',
    phase: 'transfer',
    peer: 'p',
    rank: 'tp0/pp0/cp0/dp0',
  } as const
  const complete: MessageOf<'complete'> = {
    ...transfer,
    k: 'complete',
    manifest: {
      parts: { kv: { pages: 3, bytes: 96 } },
      chunks: 2,
      ms: 1.5,
      checksums: packed(-1, 2, 3),
    },
    aux: { firstToken: 42, logprob: -0.25, cachedTokens: 0, blob: new Uint8Array([1, 2, 3]) },
  }
  const failed: MessageOf<'failed'> = { ...transfer, k: 'failed', ...failure }
  return {
    hello: {
      ...envelope,
      k: 'hello',
      gen: name128('gen'),
      session: name128('session'),
      instance: 'decode-a',
      rank,
      layout: smallLayout(),
      fingerprint,
      epoch: 6,
      fences: 0,
      engine: {
        backend: 'fake',
        version: '1',
        address: new Uint8Array([1]),
        regions: [new Uint8Array([2, 3])],
      },
    },
    welcome: {
      ...envelope,
      k: 'welcome',
      gen: name128('gen'),
      writer: name128('writer'),
      instance: 'prefill-a',
      rank,
      layout: smallLayout(),
      fingerprint,
      engine: { backend: 'fake', version: '1' },
      limits: { parked: 4, auxBytes: 64 },
    },
    refuse: { ...envelope, k: 'refuse', gen: name128('gen'), ep: 7, ...failure },
    queued: { ...envelope, k: 'queued', gen: name128('gen'), rooms: [[2n ** 64n - 1n, 3]] },
    reserve: {
      ...transfer,
      k: 'reserve',
      room: 2n ** 64n - 1n,
      index: 3,
      tokens: 12,
      digest: digest(),
      prefix: 0,
      pages: packed(5, 6, 7),
      state: { mamba: packed(1) },
      checksums: true,
    },
    accept: { ...transfer, k: 'accept', state: 'parked', consumed: true },
    ready: { ...transfer, k: 'ready' },
    pages: { ...transfer, k: 'pages', pages: packed(5, 6, 7), state: { mamba: packed(1) } },
    progress: { ...transfer, k: 'progress', pages: 2 },
    complete,
    failed,
    ack: { ...transfer, k: 'ack' },
    abort: { ...transfer, k: 'abort', ...failure, code: 'ERR_KVX_ABORTED' },
    drained: { ...transfer, k: 'drained' },
    query: { ...transfer, k: 'query' },
    status: {
      ...transfer,
      k: 'status',
      state: 'complete',
      pages: 3,
      consumed: false,
      queued: true,
      outcome: complete,
    },
    ping: { ...envelope, k: 'ping', live: 1 },
    pong: { ...envelope, k: 'pong', live: 1 },
  }
})()
