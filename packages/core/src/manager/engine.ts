/** The engine of one manager: one generation at a time over the same memory, and none after `close`. */
import { randomBytes } from 'node:crypto'
import {
  isKvxError,
  KvxError,
  toKvxError,
  type Backend,
  type Log,
  type Memory,
  type PeerGoneListener,
  type Staging,
  type TransferEngine,
} from '@kvx/contract'
import type { StagingSize } from '../protocol/index.ts'
import { until } from './check.ts'

/** One generation, with the memory of the host registered. */
export interface Generation {
  readonly engine: TransferEngine
  /** Through which short runs take their way; undefined: they are written as they are. */
  readonly staging: Staging | undefined
  readonly address: {
    generation: string
    address: Uint8Array
    regions: readonly Uint8Array[]
    staging: Uint8Array | undefined
  }
}

export interface EngineOptions {
  readonly backend: Backend
  readonly backendOptions: Record<string, unknown>
  /** Registered in this order with each generation. */
  readonly memory: readonly Memory[]
  /** What there may be of staging memory; undefined: none. */
  readonly staging: StagingSize | undefined
  readonly log: Log
}

export class Engine {
  readonly #options: EngineOptions
  #current: Generation
  #isOpening = false
  /** The last replacement that was asked for; each waits for the one before. */
  #replacing: Promise<unknown> = Promise.resolve()
  #closing: Promise<void> | undefined
  #onPeerGone: PeerGoneListener = () => undefined
  /** Why a generation could not be closed: it may touch the memory for as long as the process lives. */
  #unclosed: KvxError | undefined

  private constructor(options: EngineOptions, first: Generation) {
    this.#options = options
    this.#current = first
    this.#listen(first)
  }

  /** @throws what the backend throws, and KvxError `ERR_KVX_MEMORY`; nothing stays open then */
  static async open(options: EngineOptions): Promise<Engine> {
    return new Engine(options, await openGeneration(options))
  }

  /** As `TransferEngine.onPeerGone`, of every generation. */
  onPeerGone(listener: PeerGoneListener): void {
    this.#onPeerGone = listener
  }

  get current(): Generation {
    return this.#current
  }

  /**
   * Closes the present generation, and opens the next one once that is done. Bytes that the old one sent and a peer has
   * not read may land there later: its writes then never settle. With `evenIfStuck` the next one is opened also when a
   * call into the driver of the old one has not returned, so that it may touch the memory for as long as the process lives.
   * @throws what `open` throws, KvxError `ERR_KVX_CLOSED` when `close` came before the next one was open, and what
   *   closing the old one throws; none is opened then
   */
  replace({ evenIfStuck = false } = {}): Promise<Generation> {
    const next = this.#replacing.then(() => this.#replace(evenIfStuck))
    this.#replacing = next.catch(() => undefined)
    return next
  }

  /**
   * Closes the present generation, after a replacement that is under way; what that opens is closed as well. Idempotent.
   * @throws KvxError when a generation could not be closed, so that the memory must not be freed
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #replace(evenIfStuck: boolean): Promise<Generation> {
    if (this.#isClosing()) throw closed()
    await this.#shut(this.#current).catch((error: unknown) => {
      if (!evenIfStuck || !isKvxError(error) || error.code !== 'ERR_KVX_INVALID_STATE') throw error
    })
    return this.#openNext()
  }

  async #openNext(): Promise<Generation> {
    if (this.#isClosing()) throw closed()
    this.#isOpening = true
    try {
      const next = await openGeneration(this.#options)
      if (this.#isClosing()) {
        await this.#shut(next)
        throw closed()
      }
      this.#current = next
      this.#listen(next)
      return next
    } finally {
      this.#isOpening = false
    }
  }

  #listen({ engine }: Generation): void {
    engine.onPeerGone?.((generation, reason) => {
      this.#onPeerGone(generation, reason)
    })
  }

  #isClosing(): boolean {
    return this.#closing !== undefined
  }

  async #close(): Promise<void> {
    await until(this.#replacing, openMs)
    await this.#shut(this.#current)
    if (this.#unclosed) throw this.#unclosed
    if (!this.#isOpening) return
    throw new KvxError(
      'ERR_KVX_TIMEOUT',
      `The engine is still being opened after ${String(openMs)} ms: it may yet register the memory.`,
    )
  }

  async #shut({ engine }: Generation): Promise<void> {
    try {
      await engine.close()
    } catch (cause) {
      const error = toKvxError(cause)
      this.#options.log.warn({ error }, error.message)
      if (error.code === 'ERR_KVX_UNSETTLED') return
      this.#unclosed ??= error
      throw error
    }
  }
}

/** How long `close` waits for a generation that is being opened. */
const openMs = 60_000

async function openGeneration(options: EngineOptions): Promise<Generation> {
  const { backend, backendOptions, memory, log } = options
  const generation = randomBytes(16).toString('hex')
  const engine = await backend.open(backendOptions, { generation, log })
  try {
    const regions: Uint8Array[] = []
    for (const range of memory) regions.push((await engine.register(range)).descriptor)
    const staging = await openStaging(engine, options)
    const { address } = engine
    return {
      engine,
      staging,
      address: { generation, address, regions, staging: staging?.region.descriptor },
    }
  } catch (cause) {
    await engine.close().catch((error: unknown) => {
      log.warn({ error }, 'an engine that could not register the memory could not be closed either')
    })
    throw cause
  }
}

/** Where the engine moves short runs faster so, and can copy. */
async function openStaging(
  engine: TransferEngine,
  { staging, memory }: EngineOptions,
): Promise<Staging | undefined> {
  const isFaster = engine.capabilities.minEfficientRun > 0
  if (!staging || !isFaster || !memory.every(({ kind }) => kind === 'cpu')) return undefined
  return engine.openStaging?.(staging.bays * staging.bayBytes)
}

function closed(): KvxError {
  return new KvxError('ERR_KVX_CLOSED', 'The manager was closed.')
}
