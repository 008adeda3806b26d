/** The world of one schedule: processes that start and die, faults that concern them, and the end of faults. */
import type { KvxError } from '@kvx/contract'
import type { Coverage } from '../checks/coverage.ts'
import { abortSiblings } from '../hosts/ends.ts'
import { Context } from '../machine/context.ts'
import { unarmed } from '../machine/process.ts'
import { isPrefill, type AnyRank, type AnySlot } from '../ranks/cast.ts'
import { DecodeRank, type DecodeSlot } from '../ranks/decode.ts'
import { PrefillRank, type PrefillSlot } from '../ranks/prefill.ts'
import { fault } from '../shape/faults.ts'
import type { Random } from '../shape/random.ts'
import type { Shape } from '../shape/shape.ts'
import { hasFenced, hasRenewed, hearAtDecode, performAtDecode } from './decode.ts'
import { Parts } from './parts.ts'
import { hearAtPrefill, performAtPrefill } from './prefill.ts'

export class World {
  readonly context: Context
  readonly parts: Parts
  /** What is undone when the faults stop. */
  readonly #onHeal = new Set<() => void>()

  constructor(shape: Shape, random: Random, options: { coverage: Coverage; traced: boolean }) {
    this.context = new Context(shape, random, options.traced)
    this.parts = new Parts(this.context, options.coverage, {
      hearing: {
        atPrefill: (rank, wire, message) => {
          hearAtPrefill(this.parts, rank, wire, message)
        },
        atDecode: (rank, wire, message) => {
          hearAtDecode(this.parts, rank, wire, message)
        },
      },
      outcomes: {
        fenced: (rank, writer) => {
          hasFenced(this.parts, rank, writer)
        },
        renewed: (rank) => {
          hasRenewed(this.parts, rank)
        },
        failed: (process, error) => {
          this.#onEngineFailed(process, error)
        },
      },
    })
    for (const slot of this.parts.cast.slots) this.start(slot)
  }

  // Processes

  start(slot: AnySlot): void {
    slot.starts++
    if (isPrefill(slot)) this.#startPrefill(slot)
    else this.#startDecode(slot)
    if (slot.starts > 1) {
      slot.mask |= fault.restart
      this.context.log(() => `${slot.process.name} starts`)
    }
  }

  #startPrefill(slot: PrefillSlot): void {
    const { context, parts } = this
    const { random } = context
    // The same address as before, or another port.
    if (slot.starts > 1 && random.chance(0.25)) slot.endpoint += '1'
    const process = new PrefillRank(context, parts.books, slot, (rank, effect) => {
      performAtPrefill(parts, rank, effect)
    })
    slot.process = process
    parts.cast.addWriter(process)
    const bootstrap = parts.bootstraps.of(slot.instance)
    if (bootstrap.host === process && slot.starts > 1) bootstrap.restart()
    context.clock.after(random.between(0, 30), () => {
      bootstrap.register(process)
    })
  }

  #startDecode(slot: DecodeSlot): void {
    const { context, parts } = this
    slot.process = new DecodeRank(context, parts.books, slot, (rank, effect) => {
      performAtDecode(parts, rank, effect)
    })
    parts.cast.addDecode(slot.process)
  }

  /** The process is gone with its memory; another starts in its place, unless `restartAfter` is Infinity: then when all is healed. */
  crash(slot: AnySlot, restartAfter: number): void {
    const { context, parts } = this
    const { process } = slot
    if (!process.alive) return
    context.log(() => `${process.name} dies`)
    parts.books.hit(slot)
    slot.mask |= fault.restart
    process.alive = false
    parts.network.onExit(process)
    parts.bootstraps.onExit(process)
    parts.engines.onExit(process)
    for (const { job } of process.legs.values()) abortSiblings(context, job)
    if (restartAfter < Infinity)
      context.clock.after(restartAfter, () => {
        if (slot.process === process) this.start(slot)
      })
  }

  /** A host whose engine is broken is ended and started again. */
  #onEngineFailed(process: AnyRank, error: KvxError): void {
    const { clock, random } = this.context
    const { slot } = process
    this.context.log(() => `${process.name} has no engine any more`)
    if (process.side === 'prefill') process.generation = ''
    process.step({ type: 'engine.failed', error })
    this.parts.books.hit(slot)
    clock.after(random.between(20, 300), () => {
      if (slot.process === process) this.crash(slot, 0)
    })
  }

  // Faults

  /** Nothing passes between two processes for a while. */
  cut(decode: DecodeSlot, prefill: PrefillSlot, ms: number): void {
    for (const slot of [decode, prefill]) {
      this.parts.books.hit(slot)
      slot.mask |= fault.partition
    }
    this.parts.network.cut(decode, prefill, ms)
  }

  loseBootstrap(instance: number, ms: number): void {
    const { bootstraps } = this.parts
    const bootstrap = bootstraps.of(instance)
    this.#hitBootstrap(instance)
    bootstrap.unreachable = true
    this.context.log(() => `nobody reaches ${bootstrap.from} for ${ms} ms`)
    bootstraps.lose(bootstrap)
    this.untilHealed(ms, () => {
      bootstrap.unreachable = false
    })
  }

  restartBootstrap(instance: number): void {
    const bootstrap = this.parts.bootstraps.of(instance)
    this.#hitBootstrap(instance)
    this.context.log(() => `the bootstrap ${bootstrap.from} restarts`)
    bootstrap.restart()
  }

  #hitBootstrap(instance: number): void {
    for (const slot of this.parts.bootstraps.of(instance).slots) {
      this.parts.books.hit(slot)
      slot.mask |= fault.bootstrap
    }
  }

  // The end of faults

  /** Undoes something after a while, or when the faults stop. */
  untilHealed(ms: number, undo: () => void): void {
    const once = () => {
      if (this.#onHeal.delete(once)) undo()
    }
    this.#onHeal.add(once)
    this.context.clock.after(ms, once)
  }

  /** Faults stop for these processes: who is frozen thaws, who is dead starts, what is between them passes. */
  heal(slots: readonly AnySlot[]): void {
    const { bootstraps, cast, network } = this.parts
    this.context.log(() => `faults stop for ${slots.map(({ name }) => name).join(', ')}`)
    if (slots.length === cast.slots.length) for (const undo of [...this.#onHeal]) undo()
    for (const slot of slots) {
      Object.assign(slot.armed, unarmed())
      slot.slowness = 1
      if (isPrefill(slot)) bootstraps.of(slot.instance).unreachable = false
    }
    network.mend(slots)
    for (const slot of slots) {
      if (!slot.process.alive) this.start(slot)
      else slot.process.thaw()
    }
  }
}
