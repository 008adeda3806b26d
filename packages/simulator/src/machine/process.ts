/** What a prefill rank and a decode rank have in common as operating-system processes. */
import type { Rank } from '@kvx/core/protocol'
import type { RankMemory } from '../shape/memory.ts'
import { fault } from '../shape/faults.ts'
import { tickAtMost } from '../shape/shape.ts'
import type { Context } from './context.ts'

export type Side = 'prefill' | 'decode'

/** The place of a process in its instance: what a restart fills again. */
export interface Slot<P = Process> {
  /** `P0.1`: second rank of the first prefill instance. */
  readonly name: string
  readonly side: Side
  readonly instance: number
  readonly rank: Rank
  readonly memory: RankMemory
  process: P
  /** Processes that this slot has had. */
  starts: number
  /** Faults that the next actions of its engine meet. */
  readonly armed: Armed
  /** Faults that have hit it so far, as bits (shape/faults.ts). */
  mask: number
  /** Everything takes longer by this factor. */
  slowness: number
  /** Moment of the last fault that concerned it; −1: none. */
  hitAt: number
}

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
  /** A byte of its next write flips on the way: what digests are for. */
  flippedBytes: number
}

export const unarmed = (): Armed => ({
  fates: [],
  failingConnects: 0,
  failingReopens: 0,
  wrongManifests: 0,
  flippedBytes: 0,
})

export abstract class Process {
  readonly slot: Slot
  readonly name: string
  readonly memory: Uint8Array
  alive = true
  frozen = false
  /** It takes no new requests, and ends with the last one. */
  draining = false
  protected readonly context: Context
  /** Time that it has spent frozen. */
  #frozenMs = 0
  #frozenSince = 0
  #backlog: (() => void)[] = []

  constructor(context: Context, slot: Slot, staging: number) {
    this.context = context
    this.slot = slot
    this.name = `${slot.name}#${slot.starts}`
    this.memory = new Uint8Array(slot.memory.bytes + staging).fill(0xdd)
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
    this.context.clock.after(ms * this.slot.slowness, () => this.act(run))
  }

  freeze(): void {
    if (!this.alive || this.frozen) return
    this.frozen = true
    this.#frozenSince = this.context.clock.now
    this.slot.mask |= fault.freeze
    this.context.log(() => `${this.name} is frozen`)
  }

  /** Everything that it has not noticed meanwhile happens at once. */
  thaw(): void {
    if (!this.alive || !this.frozen) return
    this.frozen = false
    this.#frozenMs += this.context.clock.now - this.#frozenSince
    this.context.log(() => `${this.name} is thawed, ${this.#backlog.length} things wait for it`)
    const backlog = this.#backlog
    this.#backlog = []
    for (const run of backlog) this.act(run)
  }

  /** Time as the process has lived it. */
  lived(): number {
    const { now } = this.context.clock
    const frozen = this.frozen ? now - this.#frozenSince : 0
    return now - this.#frozenMs - frozen
  }

  #tickLater(): void {
    this.later(this.context.random.between(120, tickAtMost), () => {
      this.tick()
      this.#tickLater()
    })
  }
}
