/** One action in a world: the parts as they become, and what the reducers order on the way. */
import type { DecodeEffect, DecodeEvent, PrefillEffect, PrefillEvent } from '@kvx/core/protocol'
import type { Cells, Column } from './cells.ts'
import type { Decodes, Prefills } from './locals.ts'
import type {
  Books,
  Cast,
  Engines,
  EngineLink,
  Job,
  Net,
  Side,
  Wire,
  World,
  Write,
} from './parts.ts'
import type { Small } from './small.ts'
import type { Spec } from './spec.ts'

/** What stays the same in a world. */
export interface Ground {
  readonly spec: Spec
  readonly small: Small
  readonly prefills: Prefills
  readonly decodes: Decodes
  readonly cells: Cells
  /** Do what a reducer orders. */
  readonly performPrefill: (turn: Turn, effect: PrefillEffect) => void
  readonly performDecode: (turn: Turn, effect: DecodeEffect) => void
}

export class Turn implements World {
  readonly ground: Ground
  prefill: number
  decode: number
  net: Net
  engines: Engines
  books: Books
  cast: Cast

  constructor(ground: Ground, world: World) {
    this.ground = ground
    this.prefill = world.prefill
    this.decode = world.decode
    this.net = world.net
    this.engines = world.engines
    this.books = world.books
    this.cast = world.cast
  }

  get spec(): Spec {
    return this.ground.spec
  }

  /** @param key tells the event apart from others */
  stepPrefill(event: PrefillEvent, key: string): readonly PrefillEffect[] {
    const { to, effects } = this.ground.prefills.step(this.prefill, event, key)
    this.prefill = to
    for (const effect of effects) this.ground.performPrefill(this, effect)
    return effects
  }

  stepDecode(event: DecodeEvent, key: string): readonly DecodeEffect[] {
    const { to, effects } = this.ground.decodes.step(this.decode, event, key)
    this.decode = to
    for (const effect of effects) this.ground.performDecode(this, effect)
    return effects
  }

  /** A fault has happened. */
  get isHit(): boolean {
    return this.cast.faultsLeft < this.spec.most
  }

  /** From now on messages count in this column, where that is told apart. */
  hit(column: Column): void {
    const { columns } = this.cast
    if (this.spec.tellsFaults && !columns.includes(column))
      this.cast = { ...this.cast, columns: [...columns, column].sort() }
  }

  /** The process is there, and does something. */
  runs(side: Side): boolean {
    const { isAlive, isFrozen } = this.cast[side]
    return isAlive && !isFrozen
  }

  setWire(id: string, change: Partial<Wire>): void {
    const wires = this.net.wires.map((wire) => (wire.id === id ? { ...wire, ...change } : wire))
    this.net = { ...this.net, wires }
  }

  setNet(change: Partial<Net>): void {
    this.net = { ...this.net, ...change }
  }

  setEngines(change: Partial<Engines>): void {
    this.engines = { ...this.engines, ...change }
  }

  /** Changes those that `which` picks. */
  setLinks(which: (link: EngineLink) => boolean, change: Partial<EngineLink>): void {
    const { links } = this.engines
    if (links.some(which))
      this.setEngines({ links: links.map((one) => (which(one) ? { ...one, ...change } : one)) })
  }

  setWrites(which: (write: Write) => boolean, change: Partial<Write>): void {
    const { writes } = this.engines
    if (writes.some(which))
      this.setEngines({ writes: writes.map((one) => (which(one) ? { ...one, ...change } : one)) })
  }

  setBooks(change: Partial<Books>): void {
    this.books = { ...this.books, ...change }
  }

  setJob(number: number, change: (job: Job) => Partial<Job>): void {
    const jobs = this.books.jobs.map((job, i) => (i === number ? { ...job, ...change(job) } : job))
    this.setBooks({ jobs })
  }

  setActor(side: Side, change: Partial<Cast[Side]>): void {
    this.cast = { ...this.cast, [side]: { ...this.cast[side], ...change } }
  }
}

/** Something that may happen next. */
export interface Move {
  /** For a person, and for a schedule that is replayed. */
  readonly label: () => string
  /** It costs one of the faults. */
  readonly isFault?: true
  /** Column of the simulator's coverage table in which such a fault counts. */
  readonly column?: Column
  /** A fault that no request may fail of. */
  readonly isHarmless?: true
  /** Time may pass before it. */
  readonly canWait?: true
  readonly run: (turn: Turn) => void
}
