/** A decode rank: the reducer of production, its books, and what its engine has let in. */
import type { KvxError } from '@kvx/contract'
import {
  createDecode,
  stepDecode,
  type DecodeEffect,
  type DecodeEvent,
  type DecodeState,
  type Sample,
} from '@kvx/core/protocol'
import type { Books } from '../books/books.ts'
import type { ReceiveLeg, Reserve } from '../books/legs.ts'
import type { Context } from '../machine/context.ts'
import type { Slot } from '../machine/process.ts'
import { RankProcess } from './rank.ts'

export type DecodeSlot = Slot<DecodeRank>

type SourceRanks = (DecodeEvent & { type: 'source.read' })['ranks']

export class DecodeRank extends RankProcess {
  readonly side = 'decode'
  declare readonly slot: DecodeSlot
  readonly incarnation: string
  readonly state: DecodeState
  readonly legs = new Map<number, ReceiveLeg>()
  /** Every reserve that it has sent, by epoch. */
  readonly epochs = new Map<number, Reserve>()
  /** Generation of its engine; empty while there is none. */
  generation: string
  /** The same as the reducer knows it: of the last engine that was opened. */
  current: string
  /** Writers that have connected to its engine, and those that never may. */
  readonly everConnected = new Set<string>()
  readonly barred = new Set<string>()
  readonly #perform: (rank: DecodeRank, effect: DecodeEffect) => void

  /** @param perform does what the reducer orders */
  constructor(
    context: Context,
    books: Books,
    slot: DecodeSlot,
    perform: (rank: DecodeRank, effect: DecodeEffect) => void,
  ) {
    super(context, books, slot)
    this.#perform = perform
    this.incarnation = context.name('d')
    this.generation = context.name('e')
    this.current = this.generation
    const { shape } = context
    this.state = createDecode(
      {
        incarnation: this.incarnation,
        session: context.name('c'),
        instance: `decode-${slot.instance}`,
        rank: slot.rank,
        backend: 'simulated',
        version: '1',
        fence: shape.fence,
        shape: slot.memory.shape,
        place: slot.memory.place,
        packed: slot.memory.packed,
        prefixBlock: slot.memory.prefixBlock,
        verify: shape.verify,
        deadlines: shape.deadlines,
        limits: shape.limits,
      },
      this.address(),
    )
  }

  /** Of its engine as it is now. */
  address(): DecodeState['engine'] {
    const regions = this.slot.memory.regions.map(() => new Uint8Array(1))
    return { generation: this.generation, address: new Uint8Array(1), regions }
  }

  /** What the reducer orders after an event. Nothing of it is done yet. */
  react(event: DecodeEvent): readonly DecodeEffect[] {
    return stepDecode(this.state, event, this.context.clock.now)
  }

  perform(effects: readonly DecodeEffect[]): void {
    for (const effect of effects) this.#perform(this, effect)
  }

  step(event: DecodeEvent): void {
    if (this.alive) this.perform(this.react(event))
  }

  onSourceRead(from: string, ranks: SourceRanks): void {
    this.context.log(() => `${this.name} reads ${from}`)
    this.step({ type: 'source.read', from, ranks })
  }

  onSourceFailed(from: string, error: KvxError): void {
    this.context.log(() => `${this.name} cannot read ${from}`)
    this.step({ type: 'source.failed', from, error })
  }

  onPublished(from: string, sample: Sample, dp: number): void {
    this.context.log(() => `${this.name} reads that room ${sample.room} is computed by dp${dp}`)
    this.step({ type: 'source.published', from, dp, ...sample })
  }

  protected tick(): void {
    this.step({ type: 'tick' })
  }
}
