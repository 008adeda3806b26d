/** A rank of a synthetic instance: memory, pools of pages, and a manager; which requests there are it is told. */
import { randomFillSync } from 'node:crypto'
import { KvxError, type ErrorCode, type Memory } from '@kvx/contract'
import { KVManager, PagePool, promptDigest, type Lease } from '@kvx/core'
import { loadBackend } from '@kvx/core/backend'
import type { Range } from '@kvx/core/bytes'
import { allocate } from '@kvx/native'
import type { RequestCache } from '../rows.ts'
import type { Where } from '../transfer/side.ts'
import { Meter, type Cost } from './meter.ts'
import type { Job, RankOptions } from './options.ts'
import { randomOf, shuffle } from './random.ts'

/** How a request ended at one rank. */
export interface RankResult {
  readonly error?: { readonly code: ErrorCode; readonly message: string }
  /** decode: from `receive` until every byte was there. */
  readonly ms?: number
  /** decode: how long bytes were on their way. */
  readonly transferMs?: number
  /** decode: that arrived. */
  readonly bytes?: number
  /** decode: that were looked at. */
  readonly verifiedBytes?: number
  /** decode: the first byte that is wrong, in one line. */
  readonly mismatch?: string
  /** decode, of a trace: how long it waited for pages, and the tokens that it had already. */
  readonly pagesMs?: number
  readonly prefixTokens?: number
  /** When it was to be measured. */
  readonly cost?: Cost
  /** decode: writes of prefill. */
  readonly chunks?: number
}

/** Pages that a rank has for one request, by component. */
export class Pages {
  readonly lists: Readonly<Record<string, Int32Array>>
  readonly #leases: readonly Lease[]

  constructor(lists: Readonly<Record<string, Int32Array>>, leases: readonly Lease[]) {
    this.lists = lists
    this.#leases = leases
  }

  release(): void {
    for (const lease of this.#leases) lease.release()
  }
}

export class SyntheticRank {
  readonly options: RankOptions
  readonly manager: KVManager
  readonly meter: Meter | undefined
  readonly #memory: readonly Uint8Array[]
  readonly #pools: ReadonlyMap<string, PagePool>
  readonly #aborts = new Map<string, () => void>()
  readonly #free: () => void

  private constructor(
    options: RankOptions,
    manager: KVManager,
    memory: readonly Uint8Array[],
    free: () => void,
    meter: Meter | undefined,
  ) {
    this.options = options
    this.manager = manager
    this.#memory = memory
    this.#free = free
    this.meter = meter
    this.#pools = new Map(
      Object.entries(options.place.components).map(([name, { pages }]) => [
        name,
        new PagePool(pages),
      ]),
    )
  }

  /** @throws what `KVManager.open` throws */
  static async open(options: RankOptions): Promise<SyntheticRank> {
    const { role, rank, shape, place, instance, bootstrap, token, from } = options
    const memory: (Memory & { free(): unknown })[] = []
    const free = () => {
      for (const one of memory) one.free()
    }
    const meter = options.isMeasured ? new Meter() : undefined
    try {
      for (const bytes of options.regionBytes) memory.push(await memoryAt(options.where, bytes))
      const backend = meter?.over(await loadBackend(options.backend, { from }))
      const common = {
        ...{ rank, shape, place, memory, instance, token, from },
        backend: backend ?? options.backend,
        backendOptions: options.backendOptions,
      }
      const manager =
        role === 'prefill'
          ? await KVManager.open({ ...common, role, bootstrap })
          : await KVManager.open({ ...common, role, verifyKV: options.verifyKV })
      const views = memory.flatMap((one) => one.view?.(0, one.bytes) ?? [])
      if (!options.isVerified) for (const view of views) touch(view, role)
      return new SyntheticRank(options, manager, views, free, meter)
    } catch (cause) {
      free()
      throw cause
    }
  }

  /** The request of this room can be aborted, until `abort` is undefined. */
  onAbort(room: string, abort: (() => void) | undefined): void {
    if (abort) this.#aborts.set(room, abort)
    else this.#aborts.delete(room)
  }

  /** Does nothing when it has ended. */
  abort(room: string): void {
    this.#aborts.get(room)?.()
  }

  /**
   * Pages of the request, by the number that `count` answers for each component.
   * @throws KvxError `ERR_KVX_POOL_EXHAUSTED`
   */
  async take(job: Job, count: (component: string, pageTokens?: number) => number): Promise<Pages> {
    const { place, rank, isContiguous } = this.options
    const random = randomOf(job.seed + rank.tp + 7 * rank.pp + 31 * rank.cp)
    const lists: Record<string, Int32Array> = {}
    const leases: Lease[] = []
    for (const [name, { pageTokens }] of Object.entries(place.components)) {
      const lease = await this.#pools.get(name)!.allocate(count(name, pageTokens))
      leases.push(lease)
      lists[name] = isContiguous ? lease.pages : shuffle(Int32Array.from(lease.pages), random)
    }
    return new Pages(lists, leases)
  }

  cache(pages: RequestCache['pages']): RequestCache {
    const { shape, rank, place } = this.options
    return { shape, rank, place, memory: this.#memory, pages }
  }

  /** The layers of its pipeline stage. */
  get layers(): Range {
    const { stages, pp } = this.options.rank
    return [stages[pp] ?? 0, stages[pp + 1] ?? 0]
  }

  /** The pages of a component. */
  pool(component: string): PagePool {
    return this.#pools.get(component)!
  }

  /** @returns pages that are not free, which is a leak when no request is left */
  lost(): number {
    return [...this.#pools.values()].reduce((sum, pool) => sum + pool.size - pool.counts().free, 0)
  }

  async close(): Promise<void> {
    await this.manager.close()
    this.#free()
  }
}

function memoryAt(
  where: Where,
  bytes: number,
): (Memory & { free(): unknown }) | Promise<Memory & { free(): unknown }> {
  return where === 'cpu' ? allocate(bytes) : allocate(bytes, { kind: 'cuda', device: where })
}

/** So that the system has given the bytes before anything is measured, and none of decode's are right by chance. */
function touch(view: Uint8Array, role: RankOptions['role']): void {
  if (role === 'decode') {
    view.fill(0xa5)
    return
  }
  const most = 2 ** 30
  for (let at = 0; at < view.length; at += most) randomFillSync(view.subarray(at, at + most))
}

/** Both sides mean the same prompt. */
export function digestOf({ seed, tokens }: Job): Uint8Array {
  return promptDigest(Int32Array.of(seed & 0x7fffffff, tokens))
}

/** The token that prefill samples first. */
export function firstTokenOf({ seed, isFake }: Job): number {
  return isFake ? 0 : seed % 100_000
}

export function splitByAddress(
  { shape }: RankOptions,
  lists: Readonly<Record<string, Int32Array>>,
): { pages: Record<string, Int32Array>; state: Record<string, Int32Array> } {
  const [pages, state]: Record<string, Int32Array>[] = [{}, {}]
  for (const { name, addressed } of shape.components) {
    const list = lists[name]
    if (list) (addressed === 'tokens' ? pages : state)![name] = list
  }
  return { pages: pages!, state: state! }
}

export function wrongAnswer(text: string): KvxError {
  return new KvxError('ERR_KVX_INTERNAL', text, { phase: 'complete' })
}
