/**
 * Every message of the protocol as a schema. Way: D is decode, P is prefill. `from` and `to` are
 * incarnations, `gen` is the generation of the engine that owns the destination memory (decode's),
 * `ep` the epoch that decode gave to the transfer.
 */
import * as v from 'valibot'
import { isErrorCode, KvxError, type ErrorCode, type Phase } from '@kvx/contract'
import { longestSetting, maxNameLength, mostSettings, type Layout } from '../layout/index.ts'
import { maxRanks, rankObjection } from './rank.ts'

export const protocolVersion = 1

const maxLayers = 65_536
/** Regions that a pool may consist of. */
export const maxRegions = 1_024
const maxText = 2_000
const natural = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const hex128 = v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/))
const shortText = v.pipe(v.string(), v.maxLength(maxNameLength))
const text = v.pipe(v.string(), v.maxLength(maxText))
const bytes = v.custom<Uint8Array>((x) => x instanceof Uint8Array)
const digest = v.pipe(bytes, v.length(16))
const int32s = v.pipe(
  bytes,
  v.check((b) => b.byteLength % 4 === 0),
)
const pageLists = v.record(shortText, int32s)
const code = v.custom<ErrorCode>(isErrorCode)
const phase = v.custom<Phase>((x) => typeof x === 'string' && x.length < 40)

const roomNumber = v.pipe(v.bigint(), v.minValue(0n), v.maxValue((1n << 64n) - 1n))
/** Rooms that one `queued` names. */
export const maxQueuedRooms = 4_096

const size = v.pipe(natural, v.minValue(1), v.maxValue(maxRanks))

export const rankObject = v.object({
  tp: natural,
  tpSize: size,
  pp: natural,
  ppSize: size,
  cp: natural,
  cpSize: size,
  dp: natural,
  dpSize: size,
  /** First layer of each pipeline stage, and the number of layers at the end. */
  stages: v.pipe(
    v.array(v.pipe(natural, v.maxValue(maxLayers))),
    v.maxLength(maxRanks + 1),
    v.readonly(),
  ),
})

export const rankSchema = v.pipe(
  rankObject,
  v.check(
    (rank) => rankObjection(rank) === undefined,
    ({ input }) => rankObjection(input) ?? '',
  ),
)

const tensor = v.object({
  component: shortText,
  layer: natural,
  part: v.picklist(['k', 'v', 'latent']),
  dtype: shortText,
  region: natural,
  base: natural,
  pageBytes: natural,
  heads: v.tuple([natural, natural]),
  headBytes: natural,
  order: v.picklist(['token-major', 'head-major']),
})

const settingText = v.pipe(v.string(), v.maxLength(longestSetting))
const settings = v.pipe(
  v.record(settingText, settingText),
  v.check((map) => Object.keys(map).length <= mostSettings),
)

const layoutObject = v.object({
  model: shortText,
  settings: v.exactOptional(settings),
  pageTokens: natural,
  layers: v.pipe(natural, v.maxValue(maxLayers)),
  heads: natural,
  pages: v.record(shortText, natural),
  tensors: v.pipe(v.array(tensor), v.maxLength(4 * maxLayers)),
})

const layout = v.pipe(
  layoutObject,
  v.transform((value): Layout => value),
)

const envelope = { v: v.literal(protocolVersion), from: hex128, to: hex128 }
const transfer = { ...envelope, gen: hex128, ep: v.pipe(natural, v.minValue(1)) }

const failure = {
  code,
  text,
  phase: v.optional(phase),
  peer: v.optional(text),
  rank: v.optional(shortText),
}

const aux = v.object({
  firstToken: v.exactOptional(natural),
  logprob: v.exactOptional(v.pipe(v.number(), v.maxValue(Number.MAX_VALUE))),
  cachedTokens: v.exactOptional(natural),
  blob: v.exactOptional(bytes),
})

const manifest = v.object({
  /** Per component: pages that landed and their bytes. */
  parts: v.record(shortText, v.object({ pages: natural, bytes: natural })),
  chunks: natural,
  ms: v.pipe(v.number(), v.finite(), v.minValue(0)),
  /** CRC-32 per page in the order of the prompt, as u32 little-endian; when decode asked for it. */
  checksums: v.optional(int32s),
})

/** Parked, and the last prefill leg of the room was sent whole, not longer ago than the linger. */
const consumed = v.optional(v.boolean())

/** Prefill lives, and the request waits for its turn there, or for that of another decode rank. */
const queued = v.optional(v.boolean())

const complete = v.object({ ...transfer, k: v.literal('complete'), manifest, aux })
const failed = v.object({ ...transfer, k: v.literal('failed'), ...failure })

const schemas = {
  /** D→P. The only message that introduces an incarnation or a generation. */
  hello: v.object({
    ...envelope,
    k: v.literal('hello'),
    gen: hex128,
    /** Secret of this decode incarnation: who names the incarnation must know it. */
    session: hex128,
    instance: shortText,
    rank: rankSchema,
    layout,
    fingerprint: digest,
    /** Highest epoch given to this prefill incarnation so far: all up to it are over or known to both. */
    epoch: natural,
    /** How often decode has revoked this prefill engine's access: after one more the link is made again. */
    fences: natural,
    engine: v.object({
      backend: shortText,
      version: shortText,
      address: v.pipe(bytes, v.maxLength(16_384)),
      regions: v.pipe(v.array(v.pipe(bytes, v.maxLength(4_096))), v.maxLength(maxRegions)),
    }),
  }),
  /** P→D. Its engine is connected and may write. */
  welcome: v.object({
    ...envelope,
    k: v.literal('welcome'),
    gen: hex128,
    /** Generation of the prefill's engine: decode's fence names it. */
    writer: hex128,
    instance: shortText,
    rank: rankSchema,
    layout,
    fingerprint: digest,
    engine: v.object({ backend: shortText, version: shortText }),
    limits: v.object({ parked: natural, auxBytes: natural }),
  }),
  /** P→D. Of a `hello` (without `ep`) or of a `reserve`. */
  refuse: v.object({
    ...envelope,
    k: v.literal('refuse'),
    gen: hex128,
    ep: v.optional(v.pipe(natural, v.minValue(1))),
    ...failure,
  }),
  /** D→P. Requests that have found this prefill rank and wait at decode: their legs here are to wait too. */
  queued: v.object({
    ...envelope,
    k: v.literal('queued'),
    gen: hex128,
    rooms: v.pipe(v.array(v.tuple([roomNumber, natural])), v.maxLength(maxQueuedRooms)),
  }),
  /** D→P. */
  reserve: v.object({
    ...transfer,
    k: v.literal('reserve'),
    room: roomNumber,
    index: natural,
    tokens: v.pipe(natural, v.minValue(1)),
    digest,
    prefix: natural,
    pages: v.optional(int32s),
    state: v.optional(pageLists),
    checksums: v.boolean(),
  }),
  /** P→D. */
  accept: v.object({
    ...transfer,
    k: v.literal('accept'),
    state: v.picklist(['parked', 'paired']),
    consumed,
  }),
  /** P→D. Pages are needed now. */
  ready: v.object({ ...transfer, k: v.literal('ready') }),
  /** D→P. */
  pages: v.object({
    ...transfer,
    k: v.literal('pages'),
    pages: int32s,
    state: v.optional(pageLists),
  }),
  /** P→D. Pages landed so far. */
  progress: v.object({ ...transfer, k: v.literal('progress'), pages: natural }),
  /** P→D. */
  complete,
  /** P→D. Followed by `drained`. */
  failed,
  /** D→P. `complete` or `failed` was received. */
  ack: v.object({ ...transfer, k: v.literal('ack') }),
  /** D→P. Always answered by `drained`. */
  abort: v.object({ ...transfer, k: v.literal('abort'), ...failure }),
  /** P→D. Nothing of this epoch can land any more. */
  drained: v.object({ ...transfer, k: v.literal('drained') }),
  /** D→P. Where is this epoch? */
  query: v.object({ ...transfer, k: v.literal('query') }),
  /** P→D. */
  status: v.pipe(
    v.object({
      ...transfer,
      k: v.literal('status'),
      state: v.picklist(['parked', 'paired', 'complete', 'failed', 'over']),
      pages: natural,
      consumed,
      queued,
      outcome: v.optional(v.variant('k', [complete, failed])),
    }),
    v.check(
      ({ outcome, ...about }) =>
        outcome === undefined ||
        (outcome.ep === about.ep &&
          outcome.gen === about.gen &&
          outcome.from === about.from &&
          outcome.to === about.to),
    ),
  ),
  /** Both ways. */
  ping: v.object({ ...envelope, k: v.literal('ping'), live: natural }),
  pong: v.object({ ...envelope, k: v.literal('pong'), live: natural }),
}

type Schemas = typeof schemas
export type MessageKind = keyof Schemas
export type MessageOf<K extends MessageKind> = v.InferOutput<Schemas[K]>
export type Message = { [K in MessageKind]: MessageOf<K> }[MessageKind]
export type Manifest = v.InferOutput<typeof manifest>
export type WireAux = v.InferOutput<typeof aux>

export const messageKinds = Object.keys(schemas) as MessageKind[]

/**
 * Checks a decoded frame.
 * @throws KvxError `ERR_KVX_VERSION_MISMATCH` or `ERR_KVX_PROTOCOL`; the text names the first field that does not fit
 */
export function parseMessage(value: unknown): Message {
  const frame = value as { v?: unknown; k?: unknown } | null
  if (typeof frame !== 'object' || frame === null) {
    throw new KvxError('ERR_KVX_PROTOCOL', 'A frame is not a map.')
  }
  if (frame.v !== protocolVersion) {
    throw new KvxError(
      'ERR_KVX_VERSION_MISMATCH',
      `The peer speaks protocol version ${describe(frame.v)}; this side speaks ${String(protocolVersion)}. Run the same kvx on both sides.`,
    )
  }
  if (typeof frame.k !== 'string' || !Object.hasOwn(schemas, frame.k)) {
    throw new KvxError('ERR_KVX_PROTOCOL', `Unknown kind of message: ${describe(frame.k)}.`)
  }
  const result = v.safeParse(schemas[frame.k as MessageKind], value, { abortEarly: true })
  if (!result.success) {
    const issue = result.issues[0]
    throw new KvxError(
      'ERR_KVX_PROTOCOL',
      `A '${frame.k}' message does not fit at '${v.getDotPath(issue) ?? ''}'.`,
    )
  }
  return result.output
}

/** A peer's value in a text of ours: short, and never more than a scalar. */
function describe(value: unknown): string {
  return typeof value === 'number' || typeof value === 'string'
    ? String(value).slice(0, 40)
    : typeof value
}

/** Cuts a text to what a message may carry. */
export function clip(value: string): string {
  return value.length <= maxText ? value : `${value.slice(0, maxText - 1)}…`
}

/** Page indices as they travel: int32, little-endian. */
export function packPages(pages: Int32Array): Uint8Array {
  return new Uint8Array(pages.buffer, pages.byteOffset, pages.byteLength).slice()
}

export function unpackPages(packed: Uint8Array): Int32Array {
  // Copied: the bytes of a frame begin anywhere, those of an Int32Array do not.
  return new Int32Array(Uint8Array.from(packed).buffer)
}

export function packState(state: Readonly<Record<string, Int32Array>>): Record<string, Uint8Array> {
  return Object.fromEntries(Object.entries(state).map(([name, pages]) => [name, packPages(pages)]))
}

export function unpackState(
  state: Record<string, Uint8Array> | undefined,
): Record<string, Int32Array> {
  return Object.fromEntries(
    Object.entries(state ?? {}).map(([name, pages]) => [name, unpackPages(pages)]),
  )
}
