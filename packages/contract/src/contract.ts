/**
 * What a transfer engine must do. A backend package exports one `Backend` as its default export;
 * nothing else of kvx needs to know it.
 */

/** Brand of a backend. A registered symbol, so that two copies of this package agree on it. */
export const backendSymbol: unique symbol = Symbol.for('@kvx/backend') as never
export const contractVersion = 2

export interface Backend<Options = Record<string, unknown>> {
  readonly [backendSymbol]: typeof contractVersion
  /** The name it is chosen by: `shm`, `mori`, `mooncake`. */
  readonly name: string
  /** Can it run here, and if not, why and what to do? Never throws, changes nothing. */
  probe(options?: Options): Promise<Probe>
  /**
   * Starts an engine.
   * @throws KvxError `ERR_KVX_INVALID_OPTION` for an unknown or bad option,
   *   `ERR_KVX_BACKEND_UNAVAILABLE` when it cannot run here.
   */
  open(options: Options, context: OpenContext): Promise<TransferEngine>
  /** Where the engine is a vendor's library that is not part of the package: how it gets here. */
  readonly library?: VendorLibrary
}

export interface VendorLibrary {
  /** Versions that can be installed, newest first. */
  readonly versions: readonly string[]
  /** Variants that the vendor publishes, the default first; empty when there is only one. */
  readonly flavours: readonly string[]
  /**
   * Fetches the library into the user's cache and checks it. Does nothing when it is there.
   * @throws KvxError `ERR_KVX_INVALID_OPTION` for an unknown version or flavour,
   *   `ERR_KVX_BACKEND_UNAVAILABLE` when it cannot be fetched or is not what was published
   */
  install(options?: InstallLibraryOptions): Promise<InstalledLibrary>
  /** What is in the cache, newest first. */
  installed(): Promise<readonly InstalledLibrary[]>
}

export interface InstallLibraryOptions {
  version?: string | undefined
  flavour?: string | undefined
  /** A file that was downloaded elsewhere, for machines without a network. */
  file?: string | undefined
  onProgress?:
    ((progress: { readonly message: string; readonly share?: number }) => void) | undefined
  signal?: AbortSignal | undefined
}

export interface InstalledLibrary {
  readonly version: string
  readonly flavour?: string | undefined
  readonly folder: string
  /** `pip`, or the path of the file it came from. */
  readonly from: string
}

export interface OpenContext {
  /** 32 lower-case hex digits, fresh for every opened engine: its memory keys and addresses must not be taken for those of another. */
  readonly generation: string
  readonly log: Log
}

/** The part of a pino logger that kvx uses. */
export interface Log {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
}

export interface Probe {
  readonly available: boolean
  /** Version of the engine or of the vendor's library, when known. */
  readonly version?: string | undefined
  readonly library?: string | undefined
  /** Everything that was tried, in order, with the reason of each failure. */
  readonly tried: readonly { readonly what: string; readonly reason: string }[]
  /** What a person should do when it is not available. */
  readonly remedy?: string | undefined
  /** Devices whose memory it can reach. Absent when it knows of none of any kind. */
  readonly devices?: readonly Device[] | undefined
  /** The driver of the devices, or why there are none. */
  readonly devicesNote?: string | undefined
}

export interface Device {
  readonly kind: Exclude<MemoryKind, 'cpu'>
  /** In this process. */
  readonly ordinal: number
  /** The same in every process. */
  readonly uuid: string
  readonly name: string
  /** For people. */
  readonly facts: string
  /** Ordinals of the other devices whose memory it reads and writes itself. */
  readonly reaches: readonly number[]
  /** Why its memory cannot be registered; undefined when it can. */
  readonly reason?: string | undefined
}

export type MemoryKind = 'cpu' | 'cuda' | 'hip'

/** A range of memory. Allocated by `@kvx/native`, or the host's own. */
export interface Memory {
  readonly address: bigint
  readonly bytes: number
  readonly kind: MemoryKind
  /** Ordinal of the device in this process; 0 for `cpu`. What travels to a peer is the device's UUID. */
  readonly device: number
  /**
   * Of `cpu`: a memory file that holds exactly this range from offset 0; needed by `shm`. Of `cuda`: a shareable handle of the
   * physical memory (`cuMemExportToShareableHandle`), for memory made by `cuMemCreate`. Engines duplicate what they keep.
   */
  readonly fd?: number | undefined
  /**
   * Of `cuda`: the 64 bytes of `cuIpcGetMemHandle`, for memory made by `cuMemAlloc` or `cudaMalloc`. With neither `fd` nor `handle`
   * an engine that needs one asks the driver for it, in a context of its own process on `device`.
   */
  readonly handle?: Uint8Array | undefined
  /** Where the range begins in the allocation that `fd` or `handle` of `cuda` memory names, in bytes. Default 0. */
  readonly offset?: number | undefined
  /** The bytes as seen by JavaScript; present when kvx allocated them. `length` at most 4 GiB. */
  view?(offset: number, length: number): Uint8Array
}

export interface Region {
  readonly id: number
  readonly bytes: number
  /** Opaque; the writer's `connect` takes it. Travels only on the authenticated channel. */
  readonly descriptor: Uint8Array
  deregister(): Promise<void>
}

/** What the owner of memory can do to keep a vanished writer's bytes out (see `TransferEngine.fence`). */
export type FenceKind = 'peer' | 'engine' | 'exit'

export interface Capabilities {
  readonly memoryKinds: readonly MemoryKind[]
  readonly crossHost: boolean
  readonly fence: FenceKind
  /** Largest single piece in bytes; native code splits what is larger. 0: no limit. */
  readonly maxSegmentBytes: number
  /**
   * Below how many bytes in the mean the runs of a plan take longer to write one by one than to copy into one long run,
   * write and copy out again. 0: this engine moves runs of any length best as they are.
   */
  readonly minEfficientRun: number
  /** Whether `TransferOptions.after` is kept. Default false: who gives it is refused with `ERR_KVX_INVALID_OPTION`. */
  readonly after?: boolean | undefined
}

export interface EngineIdentity {
  readonly backend: string
  readonly version: string
  readonly generation: string
}

export interface TransferEngine {
  /** Frozen; constant for the life of the engine. */
  readonly capabilities: Capabilities
  readonly identity: EngineIdentity
  /** Opaque; the writer's `connect` takes it. */
  readonly address: Uint8Array
  /** @throws KvxError `ERR_KVX_MEMORY` */
  register(memory: Memory): Promise<Region>
  /**
   * Digests of tensors in registered memory, 16 bytes each, that depend only on what the bytes mean and not on where they
   * lie: see `DigestJob`. Computed neither on the thread of JavaScript nor on one that moves bytes. While it reads,
   * neither `deregister` nor `close` resolves; `close` ends it early. The arrays of the job must not change before
   * it has ended.
   * @throws KvxError `ERR_KVX_PLAN_INVALID` for a job that is malformed or reaches outside of the regions,
   *   `ERR_KVX_INVALID_OPTION` for memory that this engine cannot read, `ERR_KVX_TRANSFER_FAILED` when a GPU fails at it,
   *   `ERR_KVX_ABORTED` by the signal, `ERR_KVX_CLOSED`
   */
  digest(job: DigestJob, options?: { signal?: AbortSignal }): Promise<Uint8Array>
  /**
   * Makes memory through which short runs take their way: the writer gathers them there into one long run, which the target
   * scatters from memory of its own. It is registered as the next region, and given back with the engine. Absent when the
   * engine cannot copy: then runs of every length are written as they are.
   * @throws KvxError `ERR_KVX_MEMORY`
   */
  openStaging?(bytes: number): Promise<Staging>
  /**
   * Writer side: prepares to write into the regions of a peer. Bounded by `options.timeoutMs`.
   * @throws KvxError `ERR_KVX_CONNECT_FAILED` with the reason
   */
  connect(peer: PeerAddress, options?: { timeoutMs?: number; signal?: AbortSignal }): Promise<Link>
  /**
   * Owner side, for fence kinds `peer` and `exit`: resolves once no byte of that peer can land any
   * more. A generation that never connected is barred for good, at once. For kind `engine` it
   * rejects with `ERR_KVX_INVALID_STATE`: there `close()` is the fence for everybody.
   */
  fence(peerGeneration: string, options?: { signal?: AbortSignal }): Promise<void>
  /**
   * Absent, or never called, when the engine cannot know. The listener, of which there is one, is told that the
   * engine of a generation that this one was connected with, as writer or as owner, has ended: its process has exited,
   * or it was closed. That must be true: nobody waits for such a peer any more. It says nothing about bytes on
   * their way, which are a matter of `fence` and `settled`. The same may be told twice.
   */
  onPeerGone?(listener: PeerGoneListener): void
  /**
   * Resolves when everything has settled. Idempotent.
   * @throws KvxError `ERR_KVX_UNSETTLED` when the engine is gone, and memory that was registered with it may be freed, but
   *   bytes that it sent may still land at a target until that closes its own engine. Any other code: the engine
   *   may still touch memory that was registered with it
   */
  close(): Promise<void>
}

/**
 * What to digest of one component: some tensors, and the same tokens (or slots) of all of them.
 *
 * A tensor is a table of rows and units; its digest is the sum, over all cells of the rows that count, of a hash that depends on the
 * tensor's key, the row, the unit and the bytes of the cell, all numbered as in the undivided cache. So it is the same
 * for all page sizes, orders within a page, and chunks, and the digests of ranks that hold different units, or different
 * tokens, add up to that of a rank that holds all of them.
 *
 * Which cells. In a page T = `pageTokens` tokens share R = rows per page; one of T and R is a multiple of the other. Row number q
 * of a run, counted from the first row of its page, is row q mod R of page `page + ⌊q / R⌋`. A row counts when any of its
 * tokens is in the run: those are q from `q0 = ⌊first · R / T⌋` to `⌈(first + tokens) · R / T⌉`, exclusive. In the undivided
 * cache it is row `⌊token · R / T⌋ + q − q0`. A row that two runs share would count twice: no run may begin inside
 * a row (`first` and `token` are multiples of T / R where that is more than 1), and runs must not overlap.
 *
 * Where they are. Element e of unit u (from 0 on) of row r of page p is the `elementBytes` bytes at
 * `base + p · pageBytes + r · rowStride + u · unitStride + e · elementStride`. The cell is all of its elements in order,
 * `unitBytes` bytes. In the undivided cache the unit is number `firstUnit + u`.
 *
 * The hash of a cell. All numbers are unsigned 64-bit integers, and sums and products are taken modulo 2^64, except where 128
 * bits are named.
 *
 *   mix(x):  x ^= x >> 32;  x *= D6E8FEB86659FD93h;  x ^= x >> 32;  x *= D6E8FEB86659FD93h;  x ^= x >> 32
 *   k[j] = mix((j + 1) · 9E3779B97F4A7C15h)  for j from 0 to 127
 *
 * The bytes of a cell are cut into blocks of 1,024, of which the last may be shorter. For block number b, of n bytes:
 *
 *   w[0], w[1], …    its bytes as little-endian words of 8 bytes, with zeros up to a multiple of 16 bytes
 *   P[i]             the 128-bit product of w[2i] + k[2i] and w[2i + 1] + k[2i + 1]
 *   low, high        the sum of the low halves of all P[i], and the sum of their high halves
 *   seed = mix(key + row · 9E3779B97F4A7C15h + unit · C2B2AE3D27D4EB4Fh + b · 165667B19E3779F9h + n · 27D4EB2F165667C5h)
 *   x = mix(low + seed);  y = mix(high + x);  z = mix(x ^ y)
 *
 * y is added to the first 8 bytes of the tensor's digest, z to the last 8, each a little-endian number. A tensor of which no row
 * counts has a digest of zeros.
 */
export interface DigestJob {
  /** T: tokens of a page. A slot of a component that is addressed by request is a page of one token. */
  readonly pageTokens: number
  /**
   * Rows of 11: region, base, pageBytes, rows per page, units, first unit, unitBytes, elementBytes, row stride, unit stride,
   * element stride. Strides and sizes are in bytes; `elementBytes` divides `unitBytes`.
   */
  readonly tensors: Float64Array
  /** One per tensor: tells its cells from those of all other tensors of the cache. */
  readonly keys: BigUint64Array
  /**
   * Rows of 4: page, first token in it, tokens, and the number of the first token in the prompt. A run that is longer than its page
   * goes on in the next one.
   */
  readonly runs: Int32Array
}

/**
 * Memory of an engine's own. Copies run neither on the thread of JavaScript nor on one that moves bytes; while one runs, neither
 * `deregister` of a region that it reads or writes nor `close` resolves. A plan's runs lie here one behind the other, in the order
 * in which `TransferPlan` defines its copies. Both reject with `ERR_KVX_PLAN_INVALID` before the first byte for a plan that
 * is malformed, or reaches outside of the regions or of this memory; with `ERR_KVX_INVALID_OPTION` for memory that this
 * engine cannot read; with `ERR_KVX_CLOSED`.
 */
export interface Staging {
  readonly region: Region
  /** Copies the source runs of a plan to `offset`. The destinations do not matter. Resolves with the number of bytes. */
  gather(plan: TransferPlan, offset: number): Promise<number>
  /** Copies what lies at `offset` into the destinations of a plan, which are regions of this engine. The sources do not matter. */
  scatter(plan: TransferPlan, offset: number): Promise<number>
}

export type PeerGoneListener = (generation: string, reason: string) => void

export interface PeerAddress {
  readonly generation: string
  readonly address: Uint8Array
  /** Descriptors in the order in which plans number the destination regions. */
  readonly regions: readonly Uint8Array[]
}

export interface Link {
  /** Never throws; a `done` that nobody awaits is never an unhandled rejection. */
  write(plan: TransferPlan, options?: TransferOptions): Transfer
  /** Cancels what is not posted; resolves when every transfer of the link has settled. */
  close(): Promise<void>
}

export interface TransferOptions {
  /** Milliseconds until `done` rejects with `ERR_KVX_TRANSFER_TIMEOUT`. Default 30,000. */
  deadlineMs?: number | undefined
  /** What a device must have done before the first byte is read. Default: nothing, the source is ready. */
  after?: DeviceWork | undefined
}

/**
 * Work of a device, by a handle of this process: a `CUevent` (`cudaEvent_t`) that has been recorded, or a `CUstream`
 * (`cudaStream_t`), which stands for everything that it was given before the engine takes the write: that may be later than the
 * call, so that an event is exact and a stream may wait for more. The handle must stay valid until the transfer has settled.
 */
export type DeviceWork = { readonly event: bigint } | { readonly stream: bigint }

export interface Transfer {
  /** Acknowledged by the target's transport, or a `KvxError`. Always ends, by its deadline at the latest. */
  readonly done: Promise<TransferReport>
  /** No byte of it can land any more. May come long after `done` has rejected; never rejects. */
  readonly settled: Promise<void>
  /** Stops what is not yet posted. */
  cancel(reason?: unknown): void
}

export interface TransferReport {
  readonly bytes: number
  /** Pieces handed to the engine after merging and splitting. */
  readonly segments: number
}

/**
 * What crosses into native code for one chunk and peer. For every block, lane of the block, group of
 * the block, page p of the group and run k of the lane:
 *
 *   copy `run bytes` from sourceBase + (sourcePage + p) · sourcePageBytes + k · sourceRunStride
 *                      to destinationBase + (destinationPage + p) · destinationPageBytes + k · destinationRunStride
 *
 * Region numbers are positions: of source regions in the order of `register`, of destination
 * regions in the list given to `connect`.
 */
export interface TransferPlan {
  /**
   * Rows of 10: source region, destination region, source base, destination base, source pageBytes,
   * destination pageBytes, run bytes, runs per page, source run stride, destination run stride.
   */
  readonly lanes: Float64Array
  /** Rows of 3: source page, destination page, count (consecutive on both sides). */
  readonly groups: Int32Array
  /** Rows of 4: first group, end group, first lane, end lane. */
  readonly blocks: Int32Array
}

export const laneWidth = 10
export const digestTensorWidth = 11
export const digestRunWidth = 4
/** Bytes of the digest of one tensor. */
export const digestBytes = 16
export const groupWidth = 3
export const blockWidth = 4

export function isBackend(value: unknown): value is Backend {
  return (
    typeof value === 'object' &&
    value !== null &&
    (value as Partial<Backend>)[backendSymbol] === contractVersion &&
    typeof (value as Partial<Backend>).name === 'string' &&
    typeof (value as Partial<Backend>).probe === 'function' &&
    typeof (value as Partial<Backend>).open === 'function'
  )
}
