/** The life of the engines: fences, closed engines and fresh ones, and what others learn of an end. */
import { KvxError } from '@kvx/contract'
import type { Context } from '../machine/context.ts'
import type { AnyRank, Cast } from '../ranks/cast.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { EngineLink } from '../ranks/link.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { fault } from '../shape/faults.ts'
import type { Staging } from './staging.ts'
import type { Writes } from './writes.ts'

/** What is done with the end of an engine's work. */
export interface Outcomes {
  fenced(owner: DecodeRank, writer: string): void
  /** Decode has a fresh engine. */
  renewed(owner: DecodeRank): void
  /** No fresh engine opens. */
  failed(process: AnyRank, error: KvxError): void
}

export class Engines {
  readonly #context: Context
  readonly #cast: Cast
  readonly #writes: Writes
  readonly #staging: Staging
  readonly #outcomes: Outcomes

  constructor(
    context: Context,
    cast: Cast,
    { writes, staging }: { writes: Writes; staging: Staging },
    outcomes: Outcomes,
  ) {
    this.#staging = staging
    this.#context = context
    this.#cast = cast
    this.#writes = writes
    this.#outcomes = outcomes
  }

  /** For kinds `peer` and `exit`. */
  fence(owner: DecodeRank, writer: string): void {
    const { random, shape } = this.#context
    // Who connects again later may write again: that belongs to a new hello.
    const before = this.#linksOf(owner, writer)
    const attempt = () => {
      if (shape.fence === 'peer') {
        for (const link of before) link.revoked = true
      } else if (this.#linksOf(owner, writer).some((link) => this.#isConnected(link))) {
        owner.later(random.between(20, 90), attempt)
        return
      }
      if (!owner.everConnected.has(writer)) owner.barred.add(writer)
      this.#outcomes.fenced(owner, writer)
    }
    owner.later(random.between(1, 60), attempt)
  }

  #linksOf(owner: DecodeRank, writer: string): EngineLink[] {
    const links = new Set(this.#writes.linksInUse())
    for (const { process } of this.#cast.prefills)
      for (const link of process.links.values()) links.add(link)
    return [...links].filter((link) => link.target === owner && link.writer === writer)
  }

  /** The writer's process lives and holds the connection, or something of it goes on. */
  #isConnected(link: EngineLink): boolean {
    if (this.#cast.writerOf(link.writer)?.alive !== true) return false
    return link.state !== 'closed' || this.#writes.linksInUse().includes(link)
  }

  /** Closes the writer's engine and opens a fresh one. */
  recyclePrefill(from: PrefillRank): void {
    const { random } = this.#context
    from.slot.mask |= fault.recycle
    this.#context.log(() => `${from.name} closes its engine`)
    from.later(random.between(10, 120), () => {
      for (const link of from.links.values()) link.state = 'closed'
      for (const fail of from.opening) fail()
      from.links.clear()
      const settle = this.#writes.close(from)
      this.#staging.onClose(from)
      const early = random.chance(0.5)
      if (early) settle()
      this.#reopen(from, () => {
        from.generation = this.#context.name('e')
        this.#cast.addWriter(from)
        this.#context.log(() => `${from.name} has a new engine`)
        from.step({ type: 'engine.recycled', generation: from.generation })
      })
      if (!early) from.later(random.between(0, 20), settle)
    })
  }

  /** Closes the owner's engine, the fence for everybody, and opens a fresh one. */
  recycleDecode(owner: DecodeRank): void {
    owner.slot.mask |= fault.recycle
    this.#context.log(() => `${owner.name} closes its engine`)
    owner.later(this.#context.random.between(10, 120), () => {
      this.#staging.onClose(owner)
      owner.generation = ''
      this.#reopen(owner, () => {
        owner.generation = this.#context.name('e')
        this.#outcomes.renewed(owner)
      })
    })
  }

  #reopen(process: AnyRank, then: () => void): void {
    const { armed } = process.slot
    process.later(this.#context.random.between(1, 40), () => {
      if (armed.failingReopens === 0) {
        then()
        return
      }
      armed.failingReopens--
      const error = new KvxError('ERR_KVX_BACKEND_UNAVAILABLE', 'no fresh engine', {
        phase: 'open',
      })
      this.#outcomes.failed(process, error)
    })
  }

  /** Those that were connected with its engine may learn of its end from theirs, sooner or later: not every engine knows. */
  onExit(process: AnyRank): void {
    if (process.side === 'prefill') this.#writes.onExit(process)
    this.#staging.onExit(process)
    const { random } = this.#context
    const { generation, name } = process
    for (const { process: other } of this.#cast.slots) {
      if (!other.alive || other.side === process.side || random.chance(0.5)) continue
      const isConnected =
        other.side === 'decode'
          ? other.everConnected.has(generation)
          : [...other.links.values()].some(
              (link) => link.generation === generation && link.state === 'open',
            )
      if (!isConnected) continue
      other.later(random.between(0, 400), () => {
        this.#context.log(() => `the engine of ${other.name} says that ${name} is gone`)
        other.step({ type: 'peer.gone', generation, reason: 'Its process has exited.' })
      })
    }
  }
}
