import { inspect } from 'node:util'
import {
  KvxError,
  digestTensorWidth,
  laneWidth,
  isErrorCode,
  type Capabilities,
  type DeviceWork,
  type DigestJob,
  type EngineIdentity,
  type ErrorCode,
  type FenceKind,
  type Link,
  type Memory,
  type MemoryKind,
  type OpenContext,
  type PeerAddress,
  type PeerGoneListener,
  type Phase,
  type Region,
  type Staging,
  type Transfer,
  type TransferEngine,
  type TransferOptions,
  type TransferPlan,
  type TransferReport,
} from '@kvx/contract'
import { addon, type DigestWork } from './addon.ts'
import { allocate, type AllocatedMemory } from './memory.ts'
import { pin } from './tracked.ts'

declare const engineBrand: unique symbol
interface EngineHandle {
  readonly [engineBrand]: true
}

/**
 * What `kvx::register_engine` (include/kvx/addon.h) puts on an addon's exports. Every function returns at once;
 * the outcome comes as an event that carries the `operation` number of the call.
 */
export interface EngineBinding {
  /** `kvx::kEngineInterface` of the headers that the addon was compiled with. */
  readonly engineInterface: number
  /** Starts the driver. `onEvent` is told of every outcome, with the number of its call. */
  open(
    operation: number,
    options: Record<string, boolean | number | string>,
    generation: string,
    onEvent: (operation: number, kind: number, first: number, details: Details) => void,
  ): EngineHandle
  /** What the driver says of itself; constant. */
  describe(engine: EngineHandle): {
    /** As in `Capabilities`, and so are the next five. */
    memoryKinds: string[]
    crossHost: boolean
    fence: string
    maxSegmentBytes: number
    minEfficientRun: number
    after: boolean
    /** Of the vendor's library, or of the driver. */
    version: string
    /** `TransferEngine.address`. */
    address: Uint8Array
  }
  /** Done with the number of the region and its descriptor. */
  register(engine: EngineHandle, operation: number, memory: Memory): void
  /** Done when the driver does not touch it any more. */
  deregister(engine: EngineHandle, operation: number, region: number): void
  /** Returns the number of the link, which is usable once it is done. */
  connect(
    engine: EngineHandle,
    operation: number,
    generation: string,
    address: Uint8Array,
    regions: readonly Uint8Array[],
    timeoutMs: number,
  ): number
  /** Its connect fails, unless it is done already. */
  cancelConnect(engine: EngineHandle, operation: number): void
  /** Done when every transfer of the link has settled. */
  closeLink(engine: EngineHandle, operation: number, link: number): void
  /** Done with the number of segments, or failed, and at last settled. */
  write(
    engine: EngineHandle,
    operation: number,
    link: number,
    lanes: Float64Array,
    groups: Int32Array,
    blocks: Int32Array,
    deadlineMs: number,
    after?: readonly [kind: number, handle: bigint],
  ): void
  /** What of a write has not been posted is not posted any more. */
  cancel(engine: EngineHandle, operation: number, message: string): void
  /** As `TransferEngine.fence`. */
  fence(engine: EngineHandle, operation: number, generation: string): void
  /** Its fence fails, unless it is done already. */
  cancelFence(engine: EngineHandle, operation: number): void
  /** Done when everything has settled. */
  close(engine: EngineHandle, operation: number): void
  /** Whether the engine keeps Node's event loop alive. */
  hold(engine: EngineHandle, alive: boolean): void
  /** After `close` was answered: lets go of JavaScript. No events come any more. */
  end(engine: EngineHandle): void
}

/** Equal to `kvx::kEngineInterface` (include/kvx/addon.h). */
const engineInterface = 1

const eventKind = { done: 0, failed: 1, settled: 2, peerGone: 3 } as const

/** Of `done` a second number, or bytes; of `failed` code and message; of `peerGone` the peer's generation and why. */
type Details = number | Uint8Array | readonly [string, string] | undefined

interface Outcome {
  readonly first: number
  readonly details: number | Uint8Array
}

/** What `openNativeEngine` makes an engine of. */
export interface NativeEngineInit {
  /** Name of the backend, for errors. */
  readonly backend: string
  /** Default: what the driver says. */
  readonly version?: string | undefined
  /** Checked by the backend, flat; undefined ones are left out. */
  readonly options: Readonly<Record<string, boolean | number | string | undefined>>
  /** Why memory of a kind that the driver does not take is refused, where more can be said than that. */
  readonly refusals?: Readonly<Partial<Record<MemoryKind, string>>> | undefined
  /** As the backend was given it. */
  readonly context: OpenContext
}

/**
 * Opens the engine of an addon.
 * @throws KvxError what the driver's factory threw
 */
export async function openNativeEngine(
  binding: EngineBinding,
  init: NativeEngineInit,
): Promise<TransferEngine> {
  // Undefined in addons of before there was a number.
  const compiledWith = (binding as Partial<EngineBinding>).engineInterface
  if (compiledWith !== engineInterface) {
    throw new KvxError(
      'ERR_KVX_BACKEND_UNAVAILABLE',
      `The addon of the engine '${init.backend}' was compiled with headers of another @kvx/native ` +
        `(interface ${compiledWith ?? 'without a number'}, this one has ${engineInterface}): compile it again.`,
      { phase: 'open' },
    )
  }
  const calls = new Calls(binding, init)
  try {
    await calls.opened
  } catch (error) {
    calls.end()
    throw error
  }
  const { version, address, ...described } = binding.describe(calls.handle)
  const capabilities: Capabilities = Object.freeze({
    memoryKinds: Object.freeze(described.memoryKinds as MemoryKind[]),
    crossHost: described.crossHost,
    fence: described.fence as FenceKind,
    maxSegmentBytes: described.maxSegmentBytes,
    minEfficientRun: described.minEfficientRun,
    after: described.after,
  })
  const identity: EngineIdentity = Object.freeze({
    backend: init.backend,
    version: init.version ?? version,
    generation: init.context.generation,
  })
  const facts = { capabilities, identity, address, refusals: init.refusals ?? {} }
  return new NativeEngine(binding, calls, facts)
}

interface Waiter {
  done(outcome: Outcome): void
  failed(error: KvxError): void
  /** Of transfers: they stay in the table until this. */
  settled?: () => void
  readonly phase: Phase
}

/** Matches the addon's events to the calls that wait for them, and keeps the loop alive meanwhile. */
class Calls {
  readonly handle: EngineHandle
  readonly opened: Promise<Outcome>
  readonly #binding: EngineBinding
  readonly #waiters = new Map<number, Waiter>()
  #onPeerGone: PeerGoneListener = () => undefined
  #last = 0
  #unanswered = 0
  #ended = false

  constructor(binding: EngineBinding, { options, context }: NativeEngineInit) {
    this.#binding = binding
    const given: Record<string, boolean | number | string> = {}
    for (const [name, value] of Object.entries(options)) {
      if (value !== undefined) given[name] = value
    }
    const operation = ++this.#last
    this.opened = new Promise((resolve, reject) => {
      this.#waiters.set(operation, { done: resolve, failed: reject, phase: 'open' })
    })
    this.#unanswered = 1
    this.handle = binding.open(operation, given, context.generation, (...event) => {
      this.#take(...event)
    })
    binding.hold(this.handle, true)
  }

  onPeerGone(listener: PeerGoneListener): void {
    this.#onPeerGone = listener
  }

  /** Registers the waiter before the call: `start` may throw, then nobody waits. */
  start(waiter: Waiter, start: (operation: number) => void): number {
    const operation = ++this.#last
    start(operation)
    this.#waiters.set(operation, waiter)
    if (++this.#unanswered === 1) this.#binding.hold(this.handle, true)
    return operation
  }

  ask(phase: Phase, start: (operation: number) => void): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      this.start({ done: resolve, failed: reject, phase }, start)
    })
  }

  /** Stops waiting for an operation that was not answered. */
  forget(operation: number): void {
    if (this.#waiters.delete(operation)) this.#answered()
  }

  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#binding.end(this.handle)
  }

  #take(operation: number, kind: number, first: number, details: Details): void {
    if (kind === eventKind.peerGone) {
      this.#onPeerGone(...(details as [string, string]))
      return
    }
    const waiter = this.#waiters.get(operation)
    if (waiter === undefined) return
    if (waiter.settled === undefined || kind === eventKind.settled) {
      this.#waiters.delete(operation)
    }
    if (kind === eventKind.settled) {
      waiter.settled?.()
      return
    }
    this.#answered()
    if (kind === eventKind.done) waiter.done({ first, details: details as Outcome['details'] })
    else waiter.failed(errorOf(details as [string, string], waiter.phase))
  }

  #answered(): void {
    if (--this.#unanswered === 0 && !this.#ended) this.#binding.hold(this.handle, false)
  }
}

function errorOf([code, message]: readonly [string, string], phase: Phase): KvxError {
  return isErrorCode(code)
    ? new KvxError(code, message, { phase })
    : new KvxError('ERR_KVX_INTERNAL', `${code}: ${message}`, { phase })
}

const defaultDeadlineMs = 30_000
const defaultConnectMs = 10_000
const longestMs = 1e9

interface EngineFacts extends Pick<TransferEngine, 'capabilities' | 'identity' | 'address'> {
  readonly refusals: Readonly<Partial<Record<MemoryKind, string>>>
}

class NativeEngine implements TransferEngine {
  readonly capabilities: Capabilities
  readonly identity: EngineIdentity
  readonly address: Uint8Array
  readonly #binding: EngineBinding
  readonly #calls: Calls
  readonly #refusals: EngineFacts['refusals']
  /** Releases the memory of each registered region. */
  readonly #pins = new Map<number, () => void>()
  /** By number of the region, which has a hole here once it is being deregistered. */
  readonly #memories: (Memory | undefined)[] = []
  /** Ends with the last digest that was asked for. They read the memory, which therefore stays pinned until then. */
  #reads: Promise<unknown> = Promise.resolve()
  /** The digest that is being computed. */
  #digesting: DigestWork | undefined
  /** Ends with the last copy into staging memory or out of it: as `#reads`, but never behind a digest. */
  #copies: Promise<unknown> = Promise.resolve()
  /** Its own, which it frees when it is closed. */
  readonly #staging: AllocatedMemory[] = []
  #closed: Promise<void> | undefined

  constructor(binding: EngineBinding, calls: Calls, facts: EngineFacts) {
    this.#binding = binding
    this.#calls = calls
    this.capabilities = facts.capabilities
    this.identity = facts.identity
    this.address = facts.address
    this.#refusals = facts.refusals
  }

  async register(memory: Memory): Promise<Region> {
    this.#checkOpen()
    checkMemory(memory)
    this.#checkKind(memory.kind)
    const unpin = pin(memory)
    let outcome: Outcome
    try {
      outcome = await this.#calls.ask('open', (operation) => {
        this.#binding.register(this.#calls.handle, operation, memory)
      })
    } catch (error) {
      unpin()
      throw error
    }
    const { first: id, details: descriptor } = outcome
    this.#pins.set(id, unpin)
    this.#memories[id] = memory
    let gone: Promise<void> | undefined
    return Object.freeze({
      id,
      bytes: memory.bytes,
      descriptor: descriptor instanceof Uint8Array ? descriptor : new Uint8Array(),
      deregister: () => (gone ??= this.#deregister(id)),
    })
  }

  #checkKind(kind: MemoryKind): void {
    const { memoryKinds } = this.capabilities
    if (memoryKinds.includes(kind)) return
    const reason = this.#refusals[kind]
    const why = reason === undefined ? '' : `: ${reason}`
    throw new KvxError(
      'ERR_KVX_MEMORY',
      `The backend '${this.identity.backend}' cannot register ${kind} memory here, only ${memoryKinds.join(', ')}${why}.`,
    )
  }

  async #deregister(id: number): Promise<void> {
    if (this.#closed !== undefined) return this.#closed
    this.#memories[id] = undefined
    // Asked for in this turn, so that what is written after the call is refused.
    const deregistered = this.#calls.ask('transfer', (operation) => {
      this.#binding.deregister(this.#calls.handle, operation, id)
    })
    await Promise.all([deregistered, this.#reads, this.#copies])
    this.#pins.get(id)?.()
    this.#pins.delete(id)
  }

  async openStaging(bytes: number): Promise<Staging> {
    const memory = allocate(bytes)
    let region: Region
    try {
      region = await this.register(memory)
    } catch (error) {
      memory.free()
      throw error
    }
    this.#staging.push(memory)
    return Object.freeze({
      region,
      gather: (plan: TransferPlan, offset: number) => this.#copy('source', memory, plan, offset),
      scatter: (plan: TransferPlan, offset: number) =>
        this.#copy('destination', memory, plan, offset),
    })
  }

  /** One after another, as digests. */
  #copy(
    side: 'source' | 'destination',
    staging: AllocatedMemory,
    { lanes, groups, blocks }: TransferPlan,
    offset: number,
  ): Promise<number> {
    const turn = this.#copies.then(async () => {
      this.#checkOpen()
      checkCopyable(this.#memories, lanes, side)
      const isGather = side === 'source'
      try {
        const memories = [...this.#memories]
        return await addon().copyStaged(isGather, memories, staging, offset, lanes, groups, blocks)
      } catch (cause) {
        throw new KvxError(
          'ERR_KVX_PLAN_INVALID',
          `The plan cannot be ${isGather ? 'gathered' : 'scattered'}: ${(cause as Error).message}.`,
          { cause, phase: 'transfer' },
        )
      }
    })
    this.#copies = turn.catch(() => undefined)
    return turn
  }

  /** One after another, so that they never take more than one thread of Node's pool. */
  digest(job: DigestJob, options: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    const { signal } = options
    const turn = this.#reads.then(() => this.#digest(job, signal))
    this.#reads = turn.catch(() => undefined)
    return signal ? untilAborted(turn, signal) : turn
  }

  async #digest(
    { pageTokens, tensors, keys, runs }: DigestJob,
    signal: AbortSignal | undefined,
  ): Promise<Uint8Array> {
    this.#checkOpen()
    checkNotAborted(signal)
    checkReadable(this.#memories, tensors)
    const stop = (): void => this.#digesting?.stop()
    const failed = (code: ErrorCode, cause: unknown): KvxError =>
      new KvxError(code, `The digests cannot be computed: ${sentence((cause as Error).message)}`, {
        cause,
      })
    let work: DigestWork
    try {
      work = addon().digest(this.#memories, pageTokens, tensors, keys, runs)
    } catch (cause) {
      throw failed('ERR_KVX_PLAN_INVALID', cause)
    }
    this.#digesting = work
    signal?.addEventListener('abort', stop)
    try {
      const digests = await work.done
      if (digests) return digests
    } catch (cause) {
      // The job is right: a GPU does not do it.
      throw failed('ERR_KVX_TRANSFER_FAILED', cause)
    } finally {
      this.#digesting = undefined
      signal?.removeEventListener('abort', stop)
    }
    // It was stopped.
    this.#checkOpen()
    checkNotAborted(signal)
    throw new KvxError('ERR_KVX_INTERNAL', 'The digest was stopped for no reason.')
  }

  async connect(
    peer: PeerAddress,
    options: { timeoutMs?: number; signal?: AbortSignal } = {},
  ): Promise<Link> {
    const { timeoutMs = defaultConnectMs, signal } = options
    this.#checkOpen()
    checkMilliseconds('timeoutMs', timeoutMs)
    if (signal?.aborted === true) throw aborted('The connect was aborted.', signal.reason)
    let link = 0
    let abort: (() => void) | undefined
    try {
      await this.#calls.ask('hello', (operation) => {
        link = this.#binding.connect(
          this.#calls.handle,
          operation,
          peer.generation,
          peer.address,
          peer.regions,
          timeoutMs,
        )
        abort = () => {
          this.#binding.cancelConnect(this.#calls.handle, operation)
        }
        signal?.addEventListener('abort', abort, { once: true })
      })
    } catch (error) {
      const { code, message } = error as KvxError
      throw code === 'ERR_KVX_ABORTED' ? aborted(message, signal?.reason) : error
    } finally {
      if (abort !== undefined) signal?.removeEventListener('abort', abort)
    }
    const { after = false } = this.capabilities
    return new NativeLink(this.#binding, this.#calls, { link, after }, () => this.#closed)
  }

  async fence(peerGeneration: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    const { signal } = options
    this.#checkOpen()
    if (signal?.aborted === true)
      throw aborted('The wait for the fence was aborted.', signal.reason)
    await new Promise<void>((resolve, reject) => {
      const abort = (): void => {
        this.#calls.forget(operation)
        this.#binding.cancelFence(this.#calls.handle, operation)
        reject(aborted('The wait for the fence was aborted.', signal?.reason))
      }
      const ended = (): void => {
        signal?.removeEventListener('abort', abort)
      }
      const operation = this.#calls.start(
        {
          phase: 'transfer',
          done: () => {
            ended()
            resolve()
          },
          failed: (error) => {
            ended()
            reject(error)
          },
        },
        (number) => {
          this.#binding.fence(this.#calls.handle, number, peerGeneration)
        },
      )
      signal?.addEventListener('abort', abort, { once: true })
    })
  }

  onPeerGone(listener: PeerGoneListener): void {
    this.#calls.onPeerGone(listener)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const unpin = async (): Promise<void> => {
      await this.#reads
      for (const one of this.#pins.values()) one()
      this.#pins.clear()
      for (const memory of this.#staging) memory.free()
    }
    this.#digesting?.stop()
    try {
      await this.#copies
      await this.#calls.ask('transfer', (operation) => {
        this.#binding.close(this.#calls.handle, operation)
      })
      await unpin()
    } catch (error) {
      // Its engine is gone. Any other error leaves one that may still touch the memory.
      if ((error as KvxError).code === 'ERR_KVX_UNSETTLED') await unpin()
      throw error
    } finally {
      this.#calls.end()
    }
  }

  #checkOpen(): void {
    if (this.#closed !== undefined) throw new KvxError('ERR_KVX_CLOSED', 'The engine is closed.')
  }
}

class NativeLink implements Link {
  readonly #binding: EngineBinding
  readonly #calls: Calls
  readonly #number: number
  /** Whether the engine can wait for the work of a device. */
  readonly #waits: boolean
  readonly #engineClosed: () => Promise<void> | undefined
  #closed: Promise<void> | undefined

  constructor(
    binding: EngineBinding,
    calls: Calls,
    { link, after }: { link: number; after: boolean },
    engineClosed: () => Promise<void> | undefined,
  ) {
    this.#binding = binding
    this.#calls = calls
    this.#number = link
    this.#waits = after
    this.#engineClosed = engineClosed
  }

  write(plan: TransferPlan, options: TransferOptions = {}): Transfer {
    const { deadlineMs = defaultDeadlineMs } = options
    let operation = 0
    let settle: () => void
    const settled = new Promise<void>((resolve) => {
      settle = resolve
    })
    const done = new Promise<TransferReport>((resolve, reject) => {
      try {
        if (this.#closed !== undefined || this.#engineClosed() !== undefined) {
          throw new KvxError('ERR_KVX_CLOSED', 'The link is closed.', { phase: 'transfer' })
        }
        checkMilliseconds('deadlineMs', deadlineMs)
        const after = afterRow(options.after, this.#waits)
        const { lanes, groups, blocks } = plan
        operation = this.#calls.start(
          {
            phase: 'transfer',
            done: ({ first, details }) => {
              resolve({ bytes: first, segments: Number(details) })
            },
            failed: reject,
            settled: settle,
          },
          (number) => {
            const { handle } = this.#calls
            const numbers = [lanes, groups, blocks, deadlineMs] as const
            this.#binding.write(handle, number, this.#number, ...numbers, after)
          },
        )
      } catch (error) {
        reject(
          error instanceof KvxError
            ? error
            : new KvxError(
                'ERR_KVX_PLAN_INVALID',
                `The transfer plan is invalid: ${(error as Error).message}.`,
                { cause: error, phase: 'transfer' },
              ),
        )
        settle()
      }
    })
    done.catch(() => undefined)
    return {
      done,
      settled,
      cancel: (reason) => {
        if (operation === 0 || this.#engineClosed() !== undefined) return
        const why = reason === undefined ? '' : `: ${textOf(reason)}`
        this.#binding.cancel(this.#calls.handle, operation, `The transfer was cancelled${why}`)
      },
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const engineClosed = this.#engineClosed()
    if (engineClosed !== undefined) return engineClosed
    await this.#calls.ask('transfer', (operation) => {
      this.#binding.closeLink(this.#calls.handle, operation, this.#number)
    })
  }
}

/** Rejects as soon as the signal says so, whatever `turn` still waits for. */
async function untilAborted<T>(turn: Promise<T>, signal: AbortSignal): Promise<T> {
  let abort = (): void => undefined
  const stopped = new Promise<never>((_, reject) => {
    abort = () => reject(digestAborted(signal))
    signal.addEventListener('abort', abort)
    if (signal.aborted) abort()
  })
  try {
    return await Promise.race([turn, stopped])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

function checkNotAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw digestAborted(signal)
}

function digestAborted(signal: AbortSignal): KvxError {
  return aborted('The digest was aborted.', signal.reason)
}

/** Of the regions that a plan names on one side, is each one of the host's own memory? */
function checkCopyable(
  memories: readonly (Memory | undefined)[],
  lanes: Float64Array,
  side: 'source' | 'destination',
): void {
  for (let i = side === 'source' ? 0 : 1; i < lanes.length; i += laneWidth) {
    const kind = memories[lanes[i] ?? -1]?.kind ?? 'cpu'
    if (kind === 'cpu') continue
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `Region ${String(lanes[i])} is ${kind} memory, which this engine cannot stage: only memory of the kind cpu can be.`,
    )
  }
}

/** Of the regions that a digest names, is each one of the host's memory or a CUDA GPU's? */
function checkReadable(memories: readonly (Memory | undefined)[], tensors: Float64Array): void {
  for (let i = 0; i < tensors.length; i += digestTensorWidth) {
    const kind = memories[tensors[i] ?? -1]?.kind ?? 'cpu'
    if (kind === 'cpu' || kind === 'cuda') continue
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `Region ${String(tensors[i])} is ${kind} memory, which this engine cannot digest: only memory of the kinds cpu and cuda can be.`,
    )
  }
}

function checkMemory({ address, bytes, device }: Memory): void {
  if (
    typeof address !== 'bigint' ||
    address <= 0n ||
    !Number.isSafeInteger(bytes) ||
    bytes <= 0 ||
    address + BigInt(bytes) > 2n ** 64n ||
    !Number.isInteger(device)
  ) {
    throw new KvxError(
      'ERR_KVX_MEMORY',
      `Memory of ${String(bytes)} bytes at address ${String(address)} (device ${String(device)}) is no valid range.`,
    )
  }
}

/** Its kind, as `After::Kind` of driver.h numbers them, and its handle. */
function afterRow(after: DeviceWork | undefined, waits: boolean): [number, bigint] | undefined {
  if (after === undefined) return undefined
  if (!waits) {
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      "This engine cannot wait for the work of a device: synchronize before the write and leave 'after' out.",
      { phase: 'transfer' },
    )
  }
  const { event, stream } = Object(after) as { event?: bigint; stream?: bigint }
  const handle = event ?? stream
  if (typeof handle === 'bigint' && handle >= 0n && handle < 1n << 64n) {
    return [event === undefined ? 2 : 1, handle]
  }
  throw new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `'after' must be { event: bigint } or { stream: bigint }, got ${inspect(after)}.`,
    { phase: 'transfer' },
  )
}

function checkMilliseconds(name: string, value: number): void {
  if (typeof value === 'number' && value > 0 && value <= longestMs) return
  throw new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `${name} must be milliseconds above 0, at most ${String(longestMs)}, not ${String(value)}.`,
  )
}

function aborted(message: string, cause: unknown): KvxError {
  return new KvxError('ERR_KVX_ABORTED', message, { cause })
}

/** A message may end with a full stop or not. */
function sentence(text: string): string {
  return text.endsWith('.') ? text : `${text}.`
}

function textOf(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason)
}
