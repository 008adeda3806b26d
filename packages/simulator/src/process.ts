/** What a prefill rank and a decode rank have in common as operating-system processes. */
import { PagePool, type Lease } from '@kvx/core'
import type { Rank } from '@kvx/core/protocol'
import { type Component, type RankMemory } from './content.ts'
import { fault } from './faults.ts'
import { tickAtMost } from './shape.ts'
import type { World } from './world.ts'
import type { ReceiveLeg, SendLeg } from './legs.ts'
import type { PrefillRank } from './prefill.ts'
import type { DecodeRank } from './decode.ts'

/** The place of a process in its instance: what a restart fills again. */
export interface Slot<P> {
  /** `P0.1`: second rank of the first prefill instance. */
  readonly name: string
  readonly instance: number
  readonly rank: Rank
  readonly memory: RankMemory
  process: P
  /** Processes that this slot has had. */
  starts: number
  /** Faults that the next actions of its engine meet. */
  readonly armed: Armed
  /** Faults that have hit it so far, as bits (faults.ts). */
  mask: number
  /** Everything takes longer by this factor. */
  slowness: number
  /** Moment of the last fault that concerned it; −1: none. */
  hitAt: number
}

export type PrefillSlot = Slot<PrefillRank> & { endpoint: string }
export type DecodeSlot = Slot<DecodeRank>
export type AnySlot = PrefillSlot | DecodeSlot

/** How a write fares. */
export type Fate =
  'done' | 'fails before' | 'fails during' | 'fails after' | 'completion lost' | 'never settles'

export interface Armed {
  fates: Fate[]
  failingConnects: number
  /** Its next fresh engine does not open. */
  failingReopens: number
  /** Its next manifest is wrong: a defect of prefill that decode must notice. */
  wrongManifests: number
  /** A byte of its next write flips on the way: what checksums are for. */
  flippedBytes: number
}

export const unarmed = (): Armed => ({
  fates: [],
  failingConnects: 0,
  failingReopens: 0,
  wrongManifests: 0,
  flippedBytes: 0,
})

/** Somebody else on the same machine who takes pages of a pool. */
export const occupier = 'occupier'
export type Owner = SendLeg | ReceiveLeg | typeof occupier

/** Pages of one component: the pool that hosts use, and beside it who owns what. */
export class PageBook {
  readonly pool: PagePool
  readonly owners: (Owner | undefined)[]
  readonly #name: string
  readonly #world: World

  constructor(world: World, name: string, size: number) {
    this.#world = world
    this.#name = name
    this.pool = new PagePool(size)
    this.owners = Array.from({ length: size }, () => undefined)
  }

  take(count: number, owner: Owner): Lease | undefined {
    const lease = this.pool.tryAllocate(count)
    if (!lease) return undefined
    this.#world.touched.push(this)
    for (const page of lease.pages) {
      if (this.owners[page] !== undefined)
        this.#world.violate('page given twice', `page ${page} of ${this.#name}`)
      this.owners[page] = owner
    }
    return lease
  }

  disown(pages: Int32Array): void {
    this.#world.touched.push(this)
    for (const page of pages) this.owners[page] = undefined
  }

  /** Pool and book must agree after every event. */
  check(): void {
    const { pool, owners } = this
    let free = 0
    for (const owner of owners) if (owner === undefined) free++
    const counts = pool.counts()
    if (counts.free === free && counts.free + counts.leased + counts.quarantined === pool.size)
      return
    this.#world.violate(
      'pool disagrees',
      `${free} pages of ${this.#name} are free, the pool says ${JSON.stringify(counts)}`,
    )
  }
}

export abstract class RankProcess<P> {
  abstract readonly side: 'prefill' | 'decode'
  readonly world: World
  readonly slot: Slot<P>
  readonly name: string
  readonly memory: Uint8Array
  readonly books: Readonly<Record<Component, PageBook>>
  alive = true
  frozen = false
  /** It takes no new requests, and ends with the last one. */
  draining = false
  /** Time that it has spent frozen. */
  frozenMs = 0
  #frozenSince = 0
  #backlog: (() => void)[] = []

  constructor(world: World, slot: Slot<P>) {
    this.world = world
    this.slot = slot
    this.name = `${slot.name}#${slot.starts}`
    this.memory = new Uint8Array(slot.memory.bytes).fill(0xdd)
    const { pages } = world.shape.model
    this.books = {
      kv: new PageBook(world, `${this.name} (kv)`, pages.kv),
      mamba: new PageBook(world, `${this.name} (mamba)`, pages.mamba),
    }
    this.#tickLater()
  }

  protected abstract tick(): void

  /** Runs as soon as the process runs: at once, when it is thawed, or never. */
  act(run: () => void): void {
    if (!this.alive) return
    if (this.frozen) this.#backlog.push(run)
    else run()
  }

  later(ms: number, run: () => void): void {
    this.world.clock.after(ms * this.slot.slowness, () => this.act(run))
  }

  freeze(): void {
    if (!this.alive || this.frozen) return
    this.frozen = true
    this.#frozenSince = this.world.clock.now
    this.slot.mask |= fault.freeze
    this.world.log(() => `${this.name} is frozen`)
  }

  /** Everything that it has not noticed meanwhile happens at once. */
  thaw(): void {
    if (!this.alive || !this.frozen) return
    this.frozen = false
    this.frozenMs += this.world.clock.now - this.#frozenSince
    this.world.log(() => `${this.name} is thawed, ${this.#backlog.length} things wait for it`)
    const backlog = this.#backlog
    this.#backlog = []
    for (const run of backlog) this.act(run)
  }

  /** Time as the process has lived it. */
  lived(): number {
    const frozen = this.frozen ? this.world.clock.now - this.#frozenSince : 0
    return this.world.clock.now - this.frozenMs - frozen
  }

  #tickLater(): void {
    this.later(this.world.random.between(120, tickAtMost), () => {
      this.tick()
      this.#tickLater()
    })
  }
}
