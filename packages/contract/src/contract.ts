/**
 * What a transfer engine must do. A backend package exports one `Backend` as its default export;
 * nothing else of kvx needs to know it.
 */

/** Brand of a backend. A registered symbol, so that two copies of this package agree on it. */
export const backendSymbol: unique symbol = Symbol.for('@kvx/backend') as never
/** Version of this contract. A backend of another one is refused by name when it is loaded. */
export const contractVersion = 2

/** What an engine package exports as its default: whether it can run here, and how it is started. */
export interface Backend<Options = Record<string, unknown>> {
  /** `contractVersion`: by it a backend is told from any other object. */
  readonly [backendSymbol]: typeof contractVersion
  /** The name it is chosen by: `shm`, `mori`, `mooncake`. */
  readonly name: string
  /** Can it run here, and if not, why and what to do? Never throws, changes nothing. */
  probe(options?: Options): Promise<Probe>
  /**
   * Starts an engine. A process may exit, and a worker thread may be terminated, whatever an engine is doing.
   * @throws KvxError `ERR_KVX_INVALID_OPTION` for an unknown or bad option,
   *   `ERR_KVX_BACKEND_UNAVAILABLE` when it cannot run here.
   */
  open(options: Options, context: OpenContext): Promise<TransferEngine>
  /** Where the engine is a vendor's library that is not part of the package: how it gets here. */
  readonly library?: VendorLibrary
}

/** How a vendor's library that is not part of the package gets onto this machine. */
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

/** What to install, and from where. */
export interface InstallLibraryOptions {
  /** One of `VendorLibrary.versions`. Default: the newest. */
  version?: string | undefined
  /** One of `VendorLibrary.flavours`. Default: the first. */
  flavour?: string | undefined
  /** A file that was downloaded elsewhere, for machines without a network. */
  file?: string | undefined
  /** Told while it is fetched; `share` is 0 to 1 where it is known. */
  onProgress?:
    ((progress: { readonly message: string; readonly share?: number }) => void) | undefined
  /** Ends it with `ERR_KVX_ABORTED`; nothing is left behind. */
  signal?: AbortSignal | undefined
}

/** A library in the user's cache. */
export interface InstalledLibrary {
  /** As the vendor numbers it. */
  readonly version: string
  /** The variant, where there are several. */
  readonly flavour?: string | undefined
  /** Absolute path of where it was unpacked. */
  readonly folder: string
  /** `pip`, or the path of the file it came from. */
  readonly from: string
}

/** What an engine is given beside its options. */
export interface OpenContext {
  /** 32 lower-case hex digits, fresh for every opened engine: its memory keys and addresses must not be taken for those of another. */
  readonly generation: string
  /** Where it says what a person should know; never where it reports an error that it throws. */
  readonly log: Log
}

/** The part of a pino logger that kvx uses. */
export interface Log {
  /** For who looks for a fault: each step. */
  debug(fields: object, message: string): void
  /** What an operator wants to see of a day without faults. */
  info(fields: object, message: string): void
  /** Something failed, and kvx went on. */
  warn(fields: object, message: string): void
  /** Something failed that somebody must mend. */
  error(fields: object, message: string): void
}

/** A log that says nothing. */
export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
}

/** Whether an engine can run on this machine, and with what. */
export interface Probe {
  /** `open` is expected to succeed. */
  readonly available: boolean
  /** Version of the engine or of the vendor's library, when known. */
  readonly version?: string | undefined
  /** Path of the vendor's library that would be used. */
  readonly library?: string | undefined
  /** Everything that was tried, in order, with the reason of each failure. */
  readonly tried: readonly {
    /** A path, a package, a step. */
    readonly what: string
    /** A sentence, or the system's own words. */
    readonly reason: string
  }[]
  /** What a person should do when it is not available. */
  readonly remedy?: string | undefined
  /** Devices whose memory it can reach. Absent when it knows of none of any kind. */
  readonly devices?: readonly Device[] | undefined
  /** The driver of the devices, or why there are none. */
  readonly devicesNote?: string | undefined
}

/** A device whose memory an engine can, or could, reach. */
export interface Device {
  /** What memory of it is registered as. */
  readonly kind: Exclude<MemoryKind, 'cpu'>
  /** In this process. */
  readonly ordinal: number
  /** The same in every process. */
  readonly uuid: string
  /** As its driver names it. */
  readonly name: string
  /** For people. */
  readonly facts: string
  /** Ordinals of the other devices whose memory it reads and writes itself. */
  readonly reaches: readonly number[]
  /** Why its memory cannot be registered; undefined when it can. */
  readonly reason?: string | undefined
}

/** Host memory, or that of a GPU of NVIDIA or AMD. */
export type MemoryKind = 'cpu' | 'cuda' | 'hip'

/** A range of memory. Allocated by `@kvx/native`, or the host's own. */
export interface Memory {
  /** Of the first byte, in this process; for GPU memory the device pointer. */
  readonly address: bigint
  /** Length, a positive integer. */
  readonly bytes: number
  /** Whose memory it is. */
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

/** Memory that is registered with one engine, until `deregister` or the end of the engine. */
export interface Region {
  /** Its number in plans: 0 for the first that was registered. */
  readonly id: number
  /** As those of the memory. */
  readonly bytes: number
  /** Opaque; the writer's `connect` takes it. Travels only on the authenticated channel. */
  readonly descriptor: Uint8Array
  /** Writes from it are refused from the call on; resolves when no transfer reads it any more. Idempotent. */
  deregister(): Promise<void>
}

/** What the owner of memory can do to keep a vanished writer's bytes out (see `TransferEngine.fence`). */
export type FenceKind = 'peer' | 'engine' | 'exit'

/** What an engine promises; whoever uses it asks for nothing else. */
export interface Capabilities {
  /** Memory of any other kind is refused with `ERR_KVX_MEMORY`. */
  readonly memoryKinds: readonly MemoryKind[]
  /** Whether the peer may be on another host. */
  readonly crossHost: boolean
  /** What keeps a vanished writer's bytes out. */
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

/** Which engine this is. */
export interface EngineIdentity {
  /** `Backend.name`. */
  readonly backend: string
  /** Of the engine or the vendor's library; both sides compare it. */
  readonly version: string
  /** `OpenContext.generation`. */
  readonly generation: string
}

/** What was closed or deregistered leaves no memory, no descriptor and no thread behind. */
export interface TransferEngine {
  /** Frozen; constant for the life of the engine. */
  readonly capabilities: Capabilities
  /** Constant for the life of the engine. */
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
   * @throws KvxError `ERR_KVX_CONNECT_FAILED` with the reason, `ERR_KVX_ABORTED` by the signal, `ERR_KVX_CLOSED`
   */
  connect(peer: PeerAddress, options?: { timeoutMs?: number; signal?: AbortSignal }): Promise<Link>
  /**
   * Owner side, for fence kinds `peer` and `exit`: resolves once no byte of that peer can land any
   * more. A generation that never connected is barred for good, at once. For kind `engine` it
   * rejects with `ERR_KVX_INVALID_STATE`: there `close()` is the fence for everybody.
   * @throws KvxError `ERR_KVX_ABORTED` by the signal, `ERR_KVX_CLOSED`
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
   * Resolves when everything has settled. Idempotent. Every later call ends with `ERR_KVX_CLOSED`.
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
  /** The memory itself, registered. */
  readonly region: Region
  /** Copies the source runs of a plan to `offset`. The destinations do not matter. Resolves with the number of bytes. */
  gather(plan: TransferPlan, offset: number): Promise<number>
  /** Copies what lies at `offset` into the destinations of a plan, which are regions of this engine. The sources do not matter. */
  scatter(plan: TransferPlan, offset: number): Promise<number>
}

/** `generation`: the 32 hex digits of the engine that has ended; `reason`: a sentence for the error of its requests. */
export type PeerGoneListener = (generation: string, reason: string) => void

/** What the owner of memory tells a writer, over the authenticated channel. */
export interface PeerAddress {
  /** That of the owner's engine. */
  readonly generation: string
  /** `TransferEngine.address` of the owner. */
  readonly address: Uint8Array
  /** Descriptors in the order in which plans number the destination regions. */
  readonly regions: readonly Uint8Array[]
}

/** A peer that is slow, stopped or gone holds up no transfer to another. */
export interface Link {
  /**
   * Never throws; a `done` that nobody awaits is never an unhandled rejection. A plan that is malformed, or reaches outside of the
   * regions, fails with `ERR_KVX_PLAN_INVALID` before its first byte moves.
   */
  write(plan: TransferPlan, options?: TransferOptions): Transfer
  /** Cancels what is not posted; resolves when every transfer of the link has settled. */
  close(): Promise<void>
}

/** How one write is to be made. */
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
export type DeviceWork =
  | {
      /** A `CUevent`, as a number. */
      readonly event: bigint
    }
  | {
      /** A `CUstream`, as a number. */
      readonly stream: bigint
    }

/** One write: its outcome, and when nothing of it can land any more. */
export interface Transfer {
  /**
   * Acknowledged by the target's transport, or a `KvxError`. Always ends, by its deadline at the latest. Once it resolves the process of
   * the target sees every byte.
   */
  readonly done: Promise<TransferReport>
  /** No byte of it can land any more. May come long after `done` has rejected; never rejects. */
  readonly settled: Promise<void>
  /** Stops what is not yet posted. */
  cancel(reason?: unknown): void
}

/** What one write has moved. */
export interface TransferReport {
  /** How many bytes the plan moved. */
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
 * No other byte of the destination changes. Region numbers are positions: of source regions in the order of `register`,
 * of destination regions in the list given to `connect`. Copies whose destinations overlap may come in any order.
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

/** Numbers of a row of `TransferPlan.lanes`. */
export const laneWidth = 10
/** Numbers of a row of `DigestJob.tensors`. */
export const digestTensorWidth = 11
/** Numbers of a row of `DigestJob.runs`. */
export const digestRunWidth = 4
/** Bytes of the digest of one tensor. */
export const digestBytes = 16
/** Numbers of a row of `TransferPlan.groups`. */
export const groupWidth = 3
/** Numbers of a row of `TransferPlan.blocks`. */
export const blockWidth = 4

/** Whether a value is a backend of this version of the contract, made by this or another copy of the package. */
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
