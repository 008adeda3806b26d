/**
 * An engine inside one process for tests of the manager: it copies between the memories of one test,
 * when the test lets it. It proves nothing about a real engine.
 */
import {
  backendSymbol,
  contractVersion,
  blockWidth,
  digests,
  groupWidth,
  KvxError,
  laneWidth,
  type Backend,
  type DeviceWork,
  type FenceKind,
  type Memory,
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
  cancelled = 0
  readonly #regions = new Map<string, Memory>()
  readonly fence: FenceKind

  constructor(fence: FenceKind = 'exit') {
    this.fence = fence
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
    return {
      capabilities: Object.freeze({
        memoryKinds: ['cpu'] as const,
        crossHost: false,
        fence: this.fence,
        maxSegmentBytes: 0,
        minEfficientRun: 0,
        after: this.after,
      }),
      identity: { backend: 'loopback', version: '1', generation },
      address: Buffer.from(generation),
      register: (memory) => {
        const id = regions.push(memory) - 1
        this.#regions.set(key(id), memory)
        return Promise.resolve({
          id,
          bytes: memory.bytes,
          descriptor: Buffer.from(key(id)),
          deregister: () => Promise.resolve(),
        })
      },
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

function copy(
  plan: TransferPlan,
  sources: readonly Memory[],
  destinations: readonly (Memory | undefined)[],
): TransferReport {
  let bytes = 0
  const { lanes, groups, blocks } = plan
  for (let b = 0; b < blocks.length; b += blockWidth) {
    const [g0 = 0, g1 = 0, l0 = 0, l1 = 0] = blocks.subarray(b, b + blockWidth)
    for (let g = g0; g < g1; g++) {
      const [from = 0, to = 0, count = 0] = groups.subarray(g * groupWidth, (g + 1) * groupWidth)
      for (let l = l0; l < l1; l++) {
        const [sr = 0, dr = 0, sb = 0, db = 0, sp = 0, dp = 0, run = 0, runs = 0, ss = 0, ds = 0] =
          lanes.subarray(l * laneWidth, (l + 1) * laneWidth)
        for (let p = 0; p < count; p++) {
          for (let k = 0; k < runs; k++) {
            const source = sources[sr]?.view?.(sb + (from + p) * sp + k * ss, run)
            const destination = destinations[dr]?.view?.(db + (to + p) * dp + k * ds, run)
            if (!source || !destination)
              throw new KvxError('ERR_KVX_PEER_LOST', 'the region is gone')
            destination.set(source)
            bytes += run
          }
        }
      }
    }
  }
  return { bytes, segments: 1 }
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
