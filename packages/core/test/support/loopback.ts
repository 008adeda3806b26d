/**
 * An engine inside one process for tests of the manager: it copies between the memories of one test,
 * when the test lets it. It proves nothing about a real engine.
 */
import {
  backendSymbol,
  contractVersion,
  digests,
  eachCopy,
  KvxError,
  type Backend,
  type DeviceWork,
  type FenceKind,
  type Memory,
  type Staging,
  type Transfer,
  type TransferEngine,
  type TransferPlan,
  type TransferReport,
} from '@kvx/contract'

export interface Faults {
  /** Called before each write; what it returns or throws is awaited first. */
  beforeWrite?: () => Promise<void> | void
  /** Awaited between the end of a write and its settling. */
  beforeSettled?: () => Promise<void> | void
  /** Called before each checksum; what it returns or throws is awaited first. */
  beforeChecksum?: () => Promise<void> | void
  /** Called before each copy into staging memory, and out of it; what it returns or throws is awaited first. */
  beforeGather?: () => Promise<void> | void
  beforeScatter?: () => Promise<void> | void
  /** Called before each fence; what it returns or throws is awaited first. */
  beforeFence?: () => Promise<void> | void
  failConnect?: string
  /** Called before each connect; what it returns or throws is awaited first. */
  beforeConnect?: (generation: string, signal: AbortSignal | undefined) => Promise<void> | void
  /** Called before each engine is opened; what it returns or throws is awaited first. */
  beforeOpen?: () => Promise<void> | void
  /** What closing an engine fails with; nothing settles then. */
  failClose?: KvxError
}

export class Loopback {
  readonly faults: Faults = {}
  readonly opened: string[] = []
  readonly closed: string[] = []
  readonly fenced: string[] = []
  writes = 0
  /** What the writes were given to wait for; an engine that cannot must not be given any. */
  readonly waits: (DeviceWork | undefined)[] = []
  after = false
  gathers = 0
  scatters = 0
  cancelled = 0
  readonly #regions = new Map<string, Memory>()
  readonly fence: FenceKind
  readonly minEfficientRun: number

  /** @param minEfficientRun above 0: it has staging memory as well */
  constructor(fence: FenceKind = 'exit', minEfficientRun = 0) {
    this.fence = fence
    this.minEfficientRun = minEfficientRun
  }

  get backend(): Backend {
    return {
      [backendSymbol]: contractVersion,
      name: 'loopback',
      probe: () => Promise.resolve({ available: true, tried: [] }),
      open: async (_options, { generation }) => {
        this.opened.push(generation)
        await this.faults.beforeOpen?.()
        return this.#engine(generation)
      },
    }
  }

  #engine(generation: string): TransferEngine {
    const regions: Memory[] = []
    let close: () => void = () => undefined
    // Closing the engine settles everything that it wrote.
    const closed = new Promise<void>((resolve) => (close = resolve))
    const key = (id: number) => `${generation}/${String(id)}`
    const register: TransferEngine['register'] = (memory) => {
      const id = regions.push(memory) - 1
      this.#regions.set(key(id), memory)
      return Promise.resolve({
        id,
        bytes: memory.bytes,
        descriptor: Buffer.from(key(id)),
        deregister: () => Promise.resolve(),
      })
    }
    return {
      capabilities: Object.freeze({
        memoryKinds: ['cpu'] as const,
        crossHost: false,
        fence: this.fence,
        maxSegmentBytes: 0,
        minEfficientRun: this.minEfficientRun,
        after: this.after,
      }),
      identity: { backend: 'loopback', version: '1', generation },
      address: Buffer.from(generation),
      register,
      openStaging: (bytes) => this.#openStaging(bytes, regions, register),
      digest: async (job) => {
        await this.faults.beforeChecksum?.()
        return digests(job, regions)
      },
      connect: async (peer, options) => {
        await this.faults.beforeConnect?.(peer.generation, options?.signal)
        if (this.faults.failConnect !== undefined)
          throw new KvxError('ERR_KVX_CONNECT_FAILED', this.faults.failConnect)
        const destinations = peer.regions.map((descriptor) => Buffer.from(descriptor).toString())
        return {
          write: (plan, given) => {
            this.waits.push(given?.after)
            return this.#write(plan, regions, destinations, closed)
          },
          close: () => Promise.resolve(),
        }
      },
      fence: async (peer) => {
        await this.faults.beforeFence?.()
        this.fenced.push(peer)
      },
      close: () => {
        this.closed.push(generation)
        if (this.faults.failClose) return Promise.reject(this.faults.failClose)
        close()
        for (const name of this.#regions.keys())
          if (name.startsWith(generation)) this.#regions.delete(name)
        return Promise.resolve()
      },
    }
  }

  async #openStaging(
    bytes: number,
    regions: readonly Memory[],
    register: TransferEngine['register'],
  ): Promise<Staging> {
    const memory = plainMemory(bytes)
    return {
      region: await register(memory),
      gather: async (plan, offset) => {
        this.gathers++
        await this.faults.beforeGather?.()
        let end = offset
        eachCopy(plan, (region, source, _region, _destination, length) => {
          memory.view(end, length).set(regions[region]!.view!(source, length))
          end += length
        })
        return end - offset
      },
      scatter: async (plan, offset) => {
        this.scatters++
        await this.faults.beforeScatter?.()
        let end = offset
        eachCopy(plan, (_region, _source, region, destination, length) => {
          regions[region]!.view!(destination, length).set(memory.view(end, length))
          end += length
        })
        return end - offset
      },
    }
  }

  #write(
    plan: TransferPlan,
    sources: readonly Memory[],
    destinations: readonly string[],
    closed: Promise<void>,
  ): Transfer {
    this.writes++
    const cancelled = new AbortController()
    const run = async (): Promise<TransferReport> => {
      await this.faults.beforeWrite?.()
      cancelled.signal.throwIfAborted()
      return copy(
        plan,
        sources,
        destinations.map((name) => this.#regions.get(name)),
      )
    }
    const done = run()
    const settled = done.then(
      () => this.faults.beforeSettled?.(),
      () => this.faults.beforeSettled?.(),
    )
    done.catch(() => undefined)
    return {
      done,
      settled: Promise.race([settled.then(() => undefined), closed]),
      cancel: () => {
        this.cancelled++
        cancelled.abort(new KvxError('ERR_KVX_ABORTED', 'cancelled'))
      },
    }
  }
}

/** Copies what a plan orders, between the two sides' regions or one of them and staging memory. */
function copy(
  plan: TransferPlan,
  sources: readonly (Memory | undefined)[],
  destinations: readonly (Memory | undefined)[],
): TransferReport {
  let moved = 0
  eachCopy(plan, (sourceRegion, source, destinationRegion, destination, bytes) => {
    const from = sources[sourceRegion]?.view?.(source, bytes)
    const to = destinations[destinationRegion]?.view?.(destination, bytes)
    if (!from || !to) throw new KvxError('ERR_KVX_PEER_LOST', 'the region is gone')
    to.set(from)
    moved += bytes
  })
  return { bytes: moved, segments: 1 }
}

/** Plain memory of this process. */
export function plainMemory(
  bytes: number,
): Memory & { view(offset: number, length: number): Uint8Array } {
  const buffer = Buffer.alloc(bytes)
  return {
    address: 4096n,
    bytes,
    kind: 'cpu',
    device: 0,
    view: (offset, length) => buffer.subarray(offset, offset + length),
  }
}
