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
import { stagingBytes } from '../shape/shape.ts'
import { RankProcess } from './rank.ts'

/** A bay of decode, and what was posted into it. */
export interface TakenBay {
  readonly reserve: Reserve
  readonly load: number
  posted: PostedLoad | undefined
}

/** Source and destination of each byte, in the pages of both sides. */
export interface PostedLoad {
  readonly at: readonly number[]
  readonly to: readonly number[]
  scattered: boolean
}

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
  /** Whom it has told of each bay last, by where it lies. */
  readonly bays = new Map<number, TakenBay>()
  readonly #perform: (rank: DecodeRank, effect: DecodeEffect) => void

  /** @param perform does what the reducer orders */
  constructor(
    context: Context,
    books: Books,
    slot: DecodeSlot,
    perform: (rank: DecodeRank, effect: DecodeEffect) => void,
  ) {
    super(context, books, slot, stagingBytes(context.shape.staging.decode))
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
        staging: shape.staging.decode,
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
    const staging = this.context.shape.staging.decode && new Uint8Array(1)
    return { generation: this.generation, address: new Uint8Array(1), regions, staging }
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
