/**
 * Every message of the protocol as a schema. Way: D is decode, P is prefill. `from` and `to` are
 * incarnations, `gen` is the generation of the engine that owns the destination memory (decode's),
 * `ep` the epoch that decode gave to the transfer.
 */
import * as v from 'valibot'
import { isErrorCode, KvxError, type ErrorCode, type Phase } from '@kvx/contract'
import type { PackedPlace } from '../place/index.ts'
import {
  longestSetting,
  maxNameLength,
  maxTensors,
  mostSettings,
  runLength,
  type PackedShape,
} from '../shape/index.ts'
import { maxRanks, rankObjection, type Context } from '../share/index.ts'

/** Stands for the generation in an answer to what names none. */
export const noGeneration = '0'.repeat(32)

/** The version in which this side speaks. */
export const protocolVersion = 2

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

export const roomNumber = v.pipe(v.bigint(), v.minValue(0n), v.maxValue((1n << 64n) - 1n))
/** Samples, each a room and an index, that one message names. */
export const maxSamples = 4_096
export const samples = v.pipe(v.array(v.tuple([roomNumber, natural])), v.maxLength(maxSamples))

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
  /** Which tokens of a prompt each context-parallel rank holds. */
  context: v.pipe(
    v.union([
      v.picklist(['all', 'contiguous']),
      v.object({ interleave: v.pipe(natural, v.minValue(1)) }),
    ]),
    v.transform((value): Context => value),
  ),
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

const settingText = v.pipe(v.string(), v.maxLength(longestSetting))
const settings = v.pipe(
  v.record(settingText, settingText),
  v.check((map) => Object.keys(map).length <= mostSettings),
)
const name = v.pipe(shortText, v.minLength(1))
const positive = v.pipe(natural, v.minValue(1))
const integer = v.pipe(v.number(), v.safeInteger())

/** `count` tensors, of which `numbers` numbers grow from one to the next. */
const runsOf = <E extends v.ObjectEntries>(value: E, numbers: number) =>
  v.pipe(
    v.array(
      v.object({
        value: v.object(value),
        count: v.pipe(natural, v.minValue(1), v.maxValue(maxTensors)),
        first: v.pipe(v.array(natural), v.length(numbers)),
        step: v.pipe(v.array(integer), v.length(numbers)),
      }),
    ),
    v.check((runs) => runLength(runs) <= maxTensors),
  )

const shape = v.pipe(
  v.object({
    model: name,
    settings,
    layers: v.pipe(positive, v.maxValue(maxLayers)),
    components: v.array(
      v.object({
        name,
        addressed: v.picklist(['tokens', 'request']),
        window: v.exactOptional(positive),
        tensors: runsOf(
          {
            part: name,
            dtype: name,
            units: positive,
            unitBytes: positive,
            elementBytes: v.exactOptional(positive),
            tokensPerRow: v.exactOptional(positive),
            rows: v.exactOptional(positive),
          },
          1,
        ),
      }),
    ),
  }),
  v.check(
    ({ components }) =>
      components.reduce((sum, { tensors }) => sum + runLength(tensors), 0) <= maxTensors,
  ),
  v.transform((value): PackedShape => value),
)

const place = v.pipe(
  v.object({
    components: v.record(
      name,
      v.object({
        pageTokens: v.exactOptional(positive),
        pages: v.pipe(positive, v.maxValue(2 ** 31 - 1)),
      }),
    ),
    tensors: runsOf(
      {
        component: name,
        part: name,
        pageBytes: positive,
        order: v.picklist(['NHD', 'HND', 'HDN']),
      },
      3,
    ),
  }),
  v.transform((value): PackedPlace => value),
)

const descriptor = v.pipe(bytes, v.maxLength(4_096))

/** A part of a transfer that goes through a bay: its number in the transfer, from 1. */
const load = v.pipe(natural, v.minValue(1))

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
  /** Per component: tokens, or slots, times layers that landed, and bytes with what else lay in their pages. */
  parts: v.record(shortText, v.object({ units: natural, bytes: natural })),
  chunks: natural,
  ms: v.pipe(v.number(), v.finite(), v.minValue(0)),
  /** Per component: 16 bytes for each layer of which anything moved, ascending; when decode asked for it. */
  digests: v.optional(v.record(shortText, bytes)),
})

const stagedPart = v.object({
  component: name,
  layers: v.tuple([natural, natural]),
  /** Of pages: the number of the first one, among those that prefill has of the prompt. Absent for slots. */
  first: v.exactOptional(natural),
  count: natural,
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
    /** The lowest and the highest version that decode speaks. A hello itself is in the lowest. */
    speaks: v.pipe(
      v.tuple([natural, natural]),
      v.check(([lowest, highest]) => lowest === protocolVersion && highest >= lowest),
    ),
    gen: hex128,
    /** Secret of this decode incarnation: who names the incarnation must know it. */
    session: hex128,
    instance: shortText,
    rank: rankSchema,
    shape,
    place,
    /** Highest epoch given to this prefill incarnation so far: all up to it are over or known to both. */
    epoch: natural,
    /** How often decode has revoked this prefill engine's access: after one more the link is made again. */
    fences: natural,
    engine: v.object({
      backend: shortText,
      version: shortText,
      address: v.pipe(bytes, v.maxLength(16_384)),
      regions: v.pipe(v.array(descriptor), v.maxLength(maxRegions)),
    }),
    /** Memory through which short runs may take their way: one region more, and the bytes of a bay in it. */
    staging: v.exactOptional(v.object({ region: descriptor, bayBytes: positive })),
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
    shape,
    place,
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
    rooms: samples,
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
    /** Pages of each component that is addressed by tokens, slots of each that is addressed by request. */
    pages: v.optional(pageLists),
    digests: v.boolean(),
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
    pages: pageLists,
  }),
  /** P→D. Asks for a bay for so many bytes, and waits for so many milliseconds. */
  stage: v.object({ ...transfer, k: v.literal('stage'), load, bytes: positive, ms: positive }),
  /** D→P. Where in decode's staging memory the bay begins; without it there is none: the load is to be written as it is. */
  bay: v.object({ ...transfer, k: v.literal('bay'), load, offset: v.exactOptional(natural) }),
  /** P→D. The load lies in its bay: the runs of these parts, one behind the other. */
  staged: v.object({ ...transfer, k: v.literal('staged'), load, parts: v.array(stagedPart) }),
  /** D→P. The load lies in its pages, and its bay is not its own any more. */
  scattered: v.object({ ...transfer, k: v.literal('scattered'), load }),
  /** P→D. Tokens, or slots, times layers that have landed so far. */
  progress: v.object({ ...transfer, k: v.literal('progress'), units: natural }),
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
      units: natural,
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
export type StagedPart = v.InferOutput<typeof stagedPart>
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

/** Page lists as they travel: int32, little-endian. */
export type PageLists = Readonly<Record<string, Int32Array>>

export function packPages(pages: PageLists): Record<string, Uint8Array> {
  return Object.fromEntries(
    Object.entries(pages).map(([component, list]) => [
      component,
      new Uint8Array(list.buffer, list.byteOffset, list.byteLength).slice(),
    ]),
  )
}

export function unpackPages(packed: Readonly<Record<string, Uint8Array>>): PageLists {
  return Object.fromEntries(
    Object.entries(packed).map(([component, list]) => [
      component,
      // Copied: the bytes of a frame begin anywhere, those of an Int32Array do not.
      new Int32Array(Uint8Array.from(list).buffer),
    ]),
  )
}
