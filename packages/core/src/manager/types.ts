/** What a host calls, and what it gives. The classes behind it are made by `KVManager.open`. */
import type { Backend, DeviceWork, KvxError, Log, Memory } from '@kvx/contract'
import type { Place } from '../place/index.ts'
import type { CacheShape } from '../shape/index.ts'
import type { Rank } from '../share/index.ts'

/**
 * State of a request for schedulers that poll. The numeric order is SGLang's: the least value over
 * all ranks is the state of the whole request. A request only goes up in it, or to `Failed`.
 */
export const KVPoll = {
  /** Over; `error` has the first cause. */
  Failed: 0,
  /** The sides are finding each other. */
  Bootstrapping: 1,
  /** prefill: decode has reserved. decode: prefill has answered the reserve. */
  WaitingForInput: 2,
  /** prefill: something was written. decode: something has landed. */
  Transferring: 3,
  /** Every byte has arrived. */
  Success: 4,
} as const
/** All ranks of a request together: `Math.min` of their polls. */
export type KVPoll = (typeof KVPoll)[keyof typeof KVPoll]

/** For every call that waits. */
export interface WaitOptions {
  /** Ends the wait, not the request: the request goes on until it is aborted or ends. */
  signal?: AbortSignal
}

/** What a manager of either role is opened with. */
interface ManagerOptions<Options> {
  /** Name, package specifier, path, or a `Backend`: then the compiler checks `backendOptions`. */
  backend: string | Backend<Options>
  /** Those of the backend; an unknown one is refused with `ERR_KVX_INVALID_OPTION`. */
  backendOptions?: NoInfer<Options>
  /** The host's folder or `import.meta.url`: backends are looked for from there. Default: the working directory. */
  from?: string
  /** What the model's cache is: the same on both sides. */
  shape: CacheShape
  /** Where this rank keeps its part of it. */
  place: Place
  /** Registered in this order; `TensorPlace.region` counts in it. */
  memory: readonly Memory[]
  /** One secret per deployment: 16 bytes or more, random. */
  token: string
  /**
   * Name of the instance, the same for all of its ranks. Default for a single rank: role, host, process id and a part of the
   * incarnation, which no other manager has.
   */
  instance?: string
  /**
   * Where this rank stands in its instance. Default: the only one. `stages` default to an even spread of
   * the layers over the pipeline stages. With context parallelism `context` has to be stated.
   */
  rank?: Partial<Rank>
  /** Those of this role; docs/configuration.md tells whose each is. */
  deadlines?: Partial<Deadlines>
  /** Those of this role. */
  limits?: Partial<Limits>
  /** Default: nothing is said. */
  log?: Log
}

/** What a manager that sends is opened with. */
export interface PrefillOptions<Options = Record<string, unknown>> extends ManagerOptions<Options> {
  /** It sends. */
  role: 'prefill'
  /** The bootstrap service at which this rank registers, as `tcp://host:port`. */
  bootstrap: string
  /**
   * The address on which this manager listens and under which its peers reach it, so not 0.0.0.0. Default 127.0.0.1; a port is
   * chosen.
   */
  host?: string
}

/** What a manager that receives is opened with. */
export interface DecodeOptions<Options = Record<string, unknown>> extends ManagerOptions<Options> {
  /** It receives. */
  role: 'decode'
  /** Digests of what was sent are compared with what arrived before a request succeeds. Needs memory of the kinds `cpu` and `cuda`. */
  verifyKV?: boolean
}

/** What `KVManager.open` takes; `role` decides which manager it makes. */
export type KVManagerOptions<Options = Record<string, unknown>> =
  PrefillOptions<Options> | DecodeOptions<Options>

/** Milliseconds. Every wait ends at one of these. */
export interface Deadlines {
  /** decode: bootstrap asked, connected, `hello` answered. */
  hello: number
  /** decode: how long a new request waits for a peer that is known to be lost. */
  probe: number
  /** decode: `reserve` answered. */
  reserve: number
  /** prefill: `reserved()` waits for decode; also how long a reserve may be parked without its prefill leg. */
  pairing: number
  /**
   * decode: from paired to complete, without any sign of life of this request. prefill: from asking for
   * pages until they are given.
   */
  progress: number
  /** How long a request may wait for its turn at one side while the other one lives and waits for it. */
  queue: number
  /** One write, until the engine reports its end. */
  transfer: number
  /**
   * prefill: `finish` waits for the acknowledgement; how long a finished request is remembered. decode: how long a
   * bootstrap that no request uses is watched.
   */
  linger: number
  /** A peer that says nothing, not even `pong`, for so long is lost. */
  peerSilent: number
  /** Between two `ping`s. */
  ping: number
  /** decode: `drained` after an abort. What takes longer is quarantined, and may make the engine be recycled. */
  drain: number
  /** decode: how long running requests may go on before the engine is recycled. */
  recycle: number
}

/** Counts and bytes; what reaching one means is in docs/configuration.md. */
export interface Limits {
  /** Parked reserves per peer. */
  parkedPerPeer: number
  /** Bytes of writes in flight per peer. */
  bytesInFlightPerPeer: number
  /** Bytes of the aux of one request. */
  auxBytes: number
  /** Live requests of this manager. */
  requests: number
  /** Memory through which short runs take their way, where that is faster with the engine. 0: none. */
  stagingBytes: number
  /** Ranks of the other side that are known at once; decode: also bootstrap services. */
  peers: number
  /** Share of the pages in quarantine, 0 to 1, beyond which decode recycles its engine (fence kind `engine`). */
  quarantineShare: number
}

/** A rank of the other side, as a manager knows it. */
export interface PeerState {
  /** Name of its instance. */
  readonly instance: string
  /** Where it stands in it. */
  readonly rank: Rank
  /** `lost`: its requests have failed; it is remembered until nothing of them can land any more. */
  readonly state: 'connecting' | 'connected' | 'lost'
  /** That it has with this manager and that have not ended. */
  readonly requests: number
}

/** What a manager of either role has. `await using` closes it. */
interface Manager extends AsyncDisposable {
  /** 32 lower-case hex digits. */
  readonly incarnation: string
  /** Backend name and version. */
  readonly engine: {
    /** `Backend.name`. */
    readonly backend: string
    /** Of the engine, or of the vendor's library. */
    readonly version: string
  }
  /** The ranks of the other side that it knows at present. */
  peers(): PeerState[]
  /**
   * Takes no new requests from now on and resolves when the running ones have ended, or after `deadlineMs`
   * (default: the deadline `progress`). Then `close`.
   */
  drain(options?: { deadlineMs?: number }): Promise<void>
  /** Aborts what is live, waits for it to settle as far as possible, closes the engine. Idempotent. */
  close(): Promise<void>
}

/** One rank that sends. */
export interface PrefillManager extends Manager {
  /** It sends. */
  readonly role: 'prefill'
  /**
   * The sending leg of a request.
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_ROOM_IN_USE`, `ERR_KVX_OVER_LIMIT`, `ERR_KVX_DRAINING`,
   *   `ERR_KVX_CLOSED`
   */
  send(room: bigint, request: SendRequest): KVSender
}

/** One rank that receives. */
export interface DecodeManager extends Manager {
  /** It receives. */
  readonly role: 'decode'
  /** The receiving leg of a request. Throws as `PrefillManager.send`. */
  receive(room: bigint, request: ReceiveRequest): KVReceiver
}

/** What `KVManager.open` resolves with: one rank of a prefill or of a decode instance. */
export type KVManager = PrefillManager | DecodeManager

/** A request, as prefill knows it. */
export interface SendRequest {
  /** Prompt length in tokens. */
  tokens: number
  /** 16 bytes that identify the prompt's token ids: `promptDigest(ids)`. */
  digest: Uint8Array
  /** Sample number when one room carries several (n > 1). Default 0. */
  index?: number
  /**
   * Which of prefill's data-parallel ranks computes the request; the same on both sides. Default: `room mod dpSize`.
   *
   * - a number: whoever sends the request out has chosen it.
   * - `'published'`: the prefill host has. It calls `send` at its ranks, which publish that at their bootstrap service; decode
   *   asks there, and `reached` waits for the answer as long as the deadline `pairing`.
   *
   * `send` throws for a rank that is not its own. A request fails with `ERR_KVX_INVALID_ARGUMENT` at decode for a rank that
   * prefill does not have, or when another one has been published.
   */
  dpRank?: number | 'published'
  /** Those of this role that a request may have of its own. */
  deadlines?: Partial<Deadlines>
}

/** A request, as decode knows it. */
export interface ReceiveRequest extends SendRequest {
  /** The bootstrap service of the prefill instance, as `tcp://host:port`. */
  from: string
}

/** What goes from prefill to decode beside the cache, with the last of it. */
export interface Aux {
  /** First token, sampled by prefill. */
  firstToken?: number
  /** Log probability of it. */
  logprob?: number
  /** Prompt tokens that prefill had cached. */
  cachedTokens?: number
  /** Anything else of the host's; opaque to kvx. */
  blob?: Uint8Array
}

/**
 * A wrong call throws at once, or rejects when it is asynchronous, and changes nothing: the right one may follow. A
 * host that does not go on must `abort`, so that the other side need not wait for its deadline. Wrong are arguments
 * (`ERR_KVX_INVALID_ARGUMENT`) and calls out of order (`ERR_KVX_INVALID_STATE`). Once a request has failed every
 * call but `abort` throws its error.
 */
export interface KVSender {
  /** The number that the router gave the request. */
  readonly room: bigint
  /** Number of the sample, 0 unless the room carries several. */
  readonly index: number
  /**
   * Waits until decode has reserved its pages. Holds no pages and no compute slot meanwhile.
   * @throws KvxError with `code`, `phase`, `peer`
   */
  reserved(options?: WaitOptions): Promise<Reserved>
  /** Asks for pages now, when decode allocates late. */
  ready(): void
  /**
   * The request waits for its turn on this host: decode's deadlines stand still, at most for the deadline
   * `queue`, until `started()` or the first `write`.
   */
  queued(): void
  /** It waits no more: the host computes. */
  started(): void
  /**
   * Sends the pages that are complete with these tokens, and slots of state. Resolves once they are handed to the engine,
   * which may wait for a credit; the source pages must stay untouched until `settled`. Rejects when the request has failed.
   */
  write(chunk: Chunk, options?: WaitOptions): Promise<void>
  /**
   * After the last `write`: resolves when every decode rank has acknowledged the whole request. Rejects when decode has reserved
   * slots of a component of state and none was written, or another number.
   */
  finish(
    last?: { state?: PageListsByComponent; aux?: Aux; after?: DeviceWork },
    options?: WaitOptions,
  ): Promise<TransferSummary>
  /**
   * Ends the request on both sides. Does nothing when it has ended, and never throws. A text becomes `ERR_KVX_ABORTED`:
   * somebody wanted it so. A `KvxError` is told to the other side with its code, phase and peer, anything else as
   * `ERR_KVX_INTERNAL`.
   */
  abort(reason?: string | Error): void
  /** Nothing of this request reads the source pages any more. Never rejects. */
  readonly settled: Promise<void>
  /** The state now; never waits, never throws. */
  poll(): KVPoll
  /** The first cause, once `poll()` is `Failed`. */
  readonly error: KvxError | undefined
}

/** Page numbers. An `Int32Array` is not copied: leave it as it is until the request has settled. */
export type PageList = Int32Array | readonly number[]

/** By name of the component. */
export type PageListsByComponent = Readonly<Record<string, PageList>>

/** What `reserved()` tells. */
export interface Reserved {
  /** Tokens that every decode rank has already. */
  prefixTokens: number
  /** By component of pages: the first token that any decode rank needs; later than the prefix with a sliding window. */
  firstTokens: Readonly<Record<string, number>>
}

/** Pages that are complete, and what they hold. */
export interface Chunk {
  /**
   * Half-open range of the prompt's tokens that have been computed. Chunks may be cut anywhere, and come in any order. A
   * context-parallel rank may name whole chunks, or only the tokens of them that it has: others do not count.
   */
  tokens?: readonly [number, number]
  /**
   * By component, the pages that hold these tokens, in the order of the prompt; of a context-parallel rank those that it
   * has. Leading ones that nobody needs (the prefix, what lies before a window) may be left out. A bare list: of the only
   * component of pages. A page is sent by the write that brings the last of its tokens.
   */
  pages?: PageList | PageListsByComponent
  /** Slots of components that are addressed by request, as of `finish`; each layer of them is written once. */
  state?: PageListsByComponent
  /** Half-open range of layers. Default: all. */
  layers?: readonly [number, number]
  /**
   * What a device must have done before the pages and slots of this call are read: all that writes to them, also the tokens
   * of an earlier chunk in a page that this one completes. Default: they are ready. The handle must stay valid until `settled`.
   */
  after?: DeviceWork
}

/** Wrong calls throw and change nothing, as those of `KVSender`. */
export interface KVReceiver {
  /** The number that the router gave the request. */
  readonly room: bigint
  /** Number of the sample, 0 unless the room carries several. */
  readonly index: number
  /**
   * Resolves when every prefill rank has been found and has answered, or at the latest with `reserve`; rejects when
   * the request fails before. From here until `reserve` the request counts as queued, and prefill waits for it: a host
   * that takes pages only now takes none for an address at which nobody is.
   */
  readonly reached: Promise<void>
  /**
   * Whether the service at `from` has shown the token and named the ranks of a prefill instance, for this request or
   * for one shortly before it. As long as it has not, an error says something about an address, not about a member of the deployment.
   */
  readonly found: boolean
  /**
   * Tells prefill where to write: of each component the pages of the tokens that are needed, in the order of the prompt,
   * and the slots of its state. Without slots of a component of state the request has none there, at prefill either: it is refused
   * when the two disagree. The prefix is rounded down to whole pages of every component, unless it is the whole
   * prompt. Resolves when prefill has answered: paired, or parked because its own leg is not there yet.
   * Without `pages` and `state`: wait for `wanted`, then `provide`.
   */
  reserve(
    destination: {
      pages?: PageList | PageListsByComponent
      /** Tokens at the beginning of the prompt that decode has already. Default 0. */
      prefixTokens?: number
      state?: PageListsByComponent
    },
    options?: WaitOptions,
  ): Promise<{ prefixTokens: number }>
  /**
   * Resolves when prefill needs the pages, or when the request has succeeded without asking for them; rejects when
   * it fails before.
   */
  readonly wanted: Promise<void>
  /**
   * Tells the pages, after `wanted`.
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_INVALID_STATE`
   */
  provide(destination: {
    pages?: PageList | PageListsByComponent
    state?: PageListsByComponent
  }): void
  /** Every byte has arrived and agrees with the manifest; or a KvxError with code, phase, peer, rank, cause. */
  readonly done: Promise<{
    /** What prefill gave to `finish`. */
    aux: Aux
    /** What moved, and how long that took. */
    report: TransferSummary
  }>
  /** No byte of this request can land any more: the destination pages may be used for others. Never rejects. */
  readonly settled: Promise<void>
  /** As `KVSender.abort`. */
  abort(reason?: string | Error): void
  /** The state now; never waits, never throws. */
  poll(): KVPoll
  /** The first cause, once `poll()` is `Failed`. */
  readonly error: KvxError | undefined
}

/** What a request has moved, and how long that took. */
export interface TransferSummary {
  /** Pages and slots that were written to; of several decode ranks, those of the one with most. */
  pages: number
  /** With what else lies in the same pages. */
  bytes: number
  /** Number of `write` calls of prefill that moved something. */
  chunks: number
  /**
   * How long bytes of it were on their way: from each write's being posted until it has landed, writes at the same time
   * counted once. Time in which prefill computed and nothing was on its way is not in it. Both sides report
   * the same number; of several decode or prefill ranks it is that of the slowest.
   */
  ms: number
  /** How many of `bytes` went through staging memory, as their runs were short. */
  stagedBytes: number
}
