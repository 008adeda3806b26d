/**
 * What a transfer engine must do. A backend package exports one `Backend` as its default export;
 * nothing else of kvx needs to know it.
 */

/** Brand of a backend. A registered symbol, so that two copies of this package agree on it. */
export const backendSymbol: unique symbol = Symbol.for('@kvx/backend') as never
export const contractVersion = 1

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
}

export type MemoryKind = 'cpu' | 'cuda' | 'hip'

/** A range of memory. Allocated by `@kvx/native`, or the host's own. */
export interface Memory {
  readonly address: bigint
  readonly bytes: number
  readonly kind: MemoryKind
  /** Device ordinal; 0 for `cpu`. */
  readonly device: number
  /** A memory file that holds exactly this range from offset 0. Needed by `shm`. */
  readonly fd?: number | undefined
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
  /** Runs shorter than this many bytes are slow with this engine: gather before sending. */
  readonly minEfficientRun: number
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
   * CRC-32 of pages in registered memory. Computed neither on the thread of JavaScript nor on one that moves bytes. While
   * it reads, neither `deregister` nor `close` resolves.
   * @throws KvxError `ERR_KVX_PLAN_INVALID` outside of the regions, `ERR_KVX_INVALID_OPTION` for memory that is not
   *   of the kind `cpu`, `ERR_KVX_CLOSED`
   */
  checksum(job: ChecksumJob): Promise<Uint32Array>
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

export interface ChecksumJob {
  /**
   * Rows of 6: region, base, pageBytes, run bytes, runs per page, run stride. The number of a page is the CRC-32 of all its
   * runs, lane after lane; run k lies at `base + page · pageBytes + k · stride`.
   */
  readonly lanes: Float64Array
  readonly pages: Int32Array
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
  deadlineMs?: number
}

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
export const checksumWidth = 6
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
