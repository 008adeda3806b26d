/** What both sides of the protocol tests are made of: a small cache, names, and the real wire between them. */
import { decodeFrame, encodeMessage } from '../../src/control/codec.ts'
import type { Deadlines, Limits } from '../../src/manager/types.ts'
import { packPlace, type Place } from '../../src/place/index.ts'
import {
  parseMessage,
  protocolVersion,
  makeRank,
  type Message,
  type MessageKind,
  type MessageOf,
} from '../../src/protocol/index.ts'
import { packShape, type CacheShape } from '../../src/shape/index.ts'

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

/** What a rank has of a cache. */
export interface Cache {
  readonly shape: CacheShape
  readonly place: Place
}

/** Two layers of K and V, and one state component of which each request has a slot or none. */
export function smallCache(change: Partial<CacheShape> = {}, pages = kvPages): Cache {
  const kv = Array.from({ length: 2 * layers }, (_, i) => ({
    ...{ layer: Math.floor(i / 2), part: i % 2 === 0 ? 'k' : 'v', dtype: 'f16' },
    ...{ units: 1, unitBytes: 2 },
  }))
  const state = { layer: 0, part: 'state', dtype: 'f16', units: 1, unitBytes: 2, rows: 4 }
  const common = { region: 0, pageBytes, order: 'NHD' } as const
  return {
    shape: {
      model: 'small',
      layers,
      components: [
        { name: 'kv', addressed: 'tokens', tensors: kv },
        { name: 'mamba', addressed: 'request', tensors: [state] },
      ],
      ...change,
    },
    place: {
      components: { kv: { pageTokens, pages }, mamba: { pages: statePages } },
      tensors: [
        ...kv.map(({ layer, part }, i) => ({
          ...{ component: 'kv', layer, part, base: i * pages * pageBytes },
          ...common,
        })),
        {
          component: 'mamba',
          layer: 0,
          part: 'state',
          base: kv.length * pages * pageBytes,
          ...common,
        },
      ],
    },
  }
}

/** A cache as `hello` and `welcome` carry it. */
export function onWire({ shape, place }: Cache) {
  return { shape: packShape(shape), place: packPlace(place) }
}

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
  stagingBytes: 0,
}

export const digest = (number = 1) => new Uint8Array(16).fill(number)
export const rank = makeRank(layers)
export const int32 = (...values: number[]) => new Int32Array(values)
export const packed = (...values: number[]) => new Uint8Array(int32(...values).buffer)
/** Page lists of a request that has no state. */
export const kv = (...values: number[]) => ({ kv: packed(...values), mamba: packed() })
/** Tokens times layers of so many whole pages. */
export const unitsOf = (pages: number) => pages * pageTokens * layers

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
    case 'stage':
    case 'scattered':
    case 'staged':
      return `${message.k}(${String(message.load)})`
    case 'bay':
      return `bay(${String(message.load)}, ${message.offset === undefined ? 'none' : String(message.offset)})`
    case 'progress':
      return `progress(${String(message.units)})`
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
  const envelope = { v: protocolVersion, from: name128('from'), to: name128('to') } as const
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
      parts: { kv: { units: unitsOf(3), bytes: 96 } },
      chunks: 2,
      ms: 1.5,
      digests: { kv: packed(-1, 2, 3, 4, 5, 6, 7, 8) },
    },
    aux: { firstToken: 42, logprob: -0.25, cachedTokens: 0, blob: new Uint8Array([1, 2, 3]) },
  }
  const failed: MessageOf<'failed'> = { ...transfer, k: 'failed', ...failure }
  return {
    hello: {
      ...envelope,
      k: 'hello',
      speaks: [protocolVersion, protocolVersion],
      gen: name128('gen'),
      session: name128('session'),
      instance: 'decode-a',
      rank,
      ...onWire(smallCache()),
      epoch: 6,
      fences: 0,
      engine: {
        backend: 'fake',
        version: '1',
        address: new Uint8Array([1]),
        regions: [new Uint8Array([2, 3])],
      },
      staging: { region: new Uint8Array([4]), bayBytes: 4_096 },
    },
    welcome: {
      ...envelope,
      k: 'welcome',
      gen: name128('gen'),
      writer: name128('writer'),
      instance: 'prefill-a',
      rank,
      ...onWire(smallCache()),
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
      pages: { kv: packed(5, 6, 7), mamba: packed(1) },
      digests: true,
    },
    accept: { ...transfer, k: 'accept', state: 'parked', consumed: true },
    ready: { ...transfer, k: 'ready' },
    pages: { ...transfer, k: 'pages', pages: { kv: packed(5, 6, 7), mamba: packed(1) } },
    stage: { ...transfer, k: 'stage', load: 1, bytes: 96, ms: 750 },
    bay: { ...transfer, k: 'bay', load: 1, offset: 4_096 },
    staged: {
      ...transfer,
      k: 'staged',
      load: 1,
      parts: [{ component: 'kv', layers: [0, 2], first: 0, count: 3 }],
    },
    scattered: { ...transfer, k: 'scattered', load: 1 },
    progress: { ...transfer, k: 'progress', units: 16 },
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
      units: unitsOf(3),
      consumed: false,
      queued: true,
      outcome: complete,
    },
    ping: { ...envelope, k: 'ping', live: 1 },
    pong: { ...envelope, k: 'pong', live: 1 },
  }
})()
