/** A prefill rank: the reducer of production, its books, and what its engine is connected to. */
import type { TransferPlan } from '@kvx/contract'
import {
  createPrefill,
  stepPrefill,
  type PrefillEffect,
  type PrefillEvent,
  type PrefillState,
  type Sample,
} from '@kvx/core/protocol'
import type { Books } from '../books/books.ts'
import type { SendLeg } from '../books/legs.ts'
import type { Context } from '../machine/context.ts'
import type { Slot } from '../machine/process.ts'
import type { EngineLink } from './link.ts'
import { stagingBytes } from '../shape/shape.ts'
import { RankProcess } from './rank.ts'

/** What lies in a bay of prefill. */
export interface Gathered {
  readonly plan: TransferPlan
  readonly reader: SendLeg
  readonly bytes: number
}

export type PrefillSlot = Slot<PrefillRank> & { endpoint: string }

export class PrefillRank extends RankProcess {
  readonly side = 'prefill'
  declare readonly slot: PrefillSlot
  readonly endpoint: string
  readonly incarnation: string
  readonly state: PrefillState
  readonly legs = new Map<number, SendLeg>()
  /** By incarnation and generation of the target. */
  readonly links = new Map<string, EngineLink>()
  /** Attempts to connect that have not ended; each ends at once when called. */
  readonly opening = new Set<() => void>()
  /** What it has at the bootstrap service beside its rank. */
  readonly published = new Map<string, Sample>()
  /** What was gathered last, by where it lies. */
  readonly gathered = new Map<number, Gathered>()
  /** Of its engine; empty while there is none. */
  generation: string
  readonly #perform: (rank: PrefillRank, effect: PrefillEffect) => void

  /** @param perform does what the reducer orders */
  constructor(
    context: Context,
    books: Books,
    slot: PrefillSlot,
    perform: (rank: PrefillRank, effect: PrefillEffect) => void,
  ) {
    super(context, books, slot, stagingBytes(context.shape.staging.prefill))
    this.#perform = perform
    this.endpoint = slot.endpoint
    this.incarnation = context.name('a')
    this.generation = context.name('e')
    const { shape } = context
    this.state = createPrefill(
      {
        incarnation: this.incarnation,
        instance: `prefill-${slot.instance}`,
        rank: slot.rank,
        backend: 'simulated',
        version: '1',
        fence: shape.fence,
        staging: shape.staging.prefill && {
          ...shape.staging.prefill,
          shortRun: shape.staging.shortRun,
          fewestRuns: shape.staging.fewestRuns,
          region: slot.memory.regions.length,
        },
        shape: slot.memory.shape,
        place: slot.memory.place,
        packed: slot.memory.packed,
        deadlines: shape.deadlines,
        limits: shape.limits,
      },
      this.generation,
    )
  }

  /** What the reducer orders after an event. Nothing of it is done yet. */
  react(event: PrefillEvent): readonly PrefillEffect[] {
    return stepPrefill(this.state, event, this.context.clock.now)
  }

  perform(effects: readonly PrefillEffect[]): void {
    for (const effect of effects) this.#perform(this, effect)
  }

  step(event: PrefillEvent): void {
    if (this.alive) this.perform(this.react(event))
  }

  protected tick(): void {
    this.step({ type: 'tick' })
  }
}
