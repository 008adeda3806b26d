/** The world of one schedule: processes, network, engines and hosts over one clock and one generator. */
import { parseMessage, type Message } from '@kvx/core/protocol'
import { Bootstrap } from './bootstrap.ts'
import { Checks, Violation } from './checks.ts'
import { Clock } from './clock.ts'
import { modelKey, rankMemory } from './content.ts'
import type { Coverage } from './coverage.ts'
import { DecodeRank } from './decode.ts'
import { Engines } from './engine.ts'
import { fault } from './faults.ts'
import type { Job } from './legs.ts'
import { abortSiblings } from './hosts.ts'
import type { Wire } from './network.ts'
import { PrefillRank } from './prefill.ts'
import {
  type PageBook,
  unarmed,
  type AnySlot,
  type DecodeSlot,
  type PrefillSlot,
} from './process.ts'
import type { Random } from './random.ts'
import type { Shape } from './shape.ts'
import { Trace } from './trace.ts'

export class World {
  readonly shape: Shape
  readonly random: Random
  readonly clock = new Clock()
  readonly trace: Trace
  readonly coverage: Coverage
  readonly checks = new Checks(this)
  readonly engines = new Engines(this)
  readonly prefillSlots: PrefillSlot[] = []
  readonly decodeSlots: DecodeSlot[] = []
  readonly slots: AnySlot[] = []
  /** Pages have changed hands since the last check. */
  readonly touched: PageBook[] = []
  readonly bootstraps = new Map<string, Bootstrap>()
  /** Connections that stand, by their id. */
  readonly wires = new Map<string, Wire>()
  /** Prefill processes by generation of their engine. */
  readonly writers = new Map<string, PrefillRank>()
  readonly jobs: Job[] = []
  readonly totals = { succeeded: 0, failed: 0, sendersDone: 0, starved: 0 }
  readonly #decodes = new Map<string, DecodeRank>()
  readonly #cuts = new Map<string, number>()
  readonly #onHeal = new Set<() => void>()
  readonly #model: string
  #serial = 0

  constructor(shape: Shape, random: Random, options: { coverage: Coverage; traced: boolean }) {
    this.shape = shape
    this.random = random
    this.#model = modelKey(shape.model)
    this.coverage = options.coverage
    this.trace = new Trace(options.traced)
    for (const [instance, ranks] of shape.prefills.entries()) {
      const from = `tcp://bootstrap-${instance}:1`
      const slots = ranks.map((rank, i) => {
        const endpoint = `tcp://prefill-${instance}-${i}:1`
        return { ...this.#slot(`P${instance}.${i}`, instance, rank), endpoint } as PrefillSlot
      })
      this.bootstraps.set(from, new Bootstrap(this, from, slots))
      this.prefillSlots.push(...slots)
    }
    for (const [instance, ranks] of shape.decodes.entries())
      for (const [i, rank] of ranks.entries())
        this.decodeSlots.push(this.#slot(`D${instance}.${i}`, instance, rank) as DecodeSlot)
    this.slots.push(...this.prefillSlots, ...this.decodeSlots)
    for (const slot of this.slots) this.start(slot)
  }

  #slot(name: string, instance: number, rank: PrefillSlot['rank']) {
    const memory = rankMemory(this.shape.model, this.#model, rank)
    return {
      name,
      instance,
      rank,
      memory,
      starts: 0,
      armed: unarmed(),
      mask: 0,
      slowness: 1,
      hitAt: -1,
    }
  }

  // Names

  serial(): number {
    return ++this.#serial
  }

  /** 32 hexadecimal digits that tell their kind. */
  name(kind: string): string {
    return kind + this.serial().toString(16).padStart(31, '0')
  }

  decodeOf(incarnation: string): DecodeRank | undefined {
    return this.#decodes.get(incarnation)
  }

  writerOf(generation: string): PrefillRank | undefined {
    return this.writers.get(generation)
  }

  bootstrapOf(instance: number): Bootstrap {
    return this.bootstraps.get(`tcp://bootstrap-${instance}:1`)!
  }

  /** The process behind an address. */
  listening(endpoint: string): PrefillRank | undefined {
    const slot = this.prefillSlots.find((each) => each.endpoint === endpoint)
    return slot?.process.alive === true ? slot.process : undefined
  }

  // Processes

  start(slot: AnySlot): void {
    slot.starts++
    if (isPrefill(slot)) {
      // The same address as before, or another port.
      if (slot.starts > 1 && this.random.chance(0.25)) slot.endpoint += '1'
      slot.process = new PrefillRank(this, slot)
      const bootstrap = this.bootstrapOf(slot.instance)
      if (bootstrap.host === slot.process && slot.starts > 1) bootstrap.restart()
      const { process } = slot
      this.clock.after(this.random.between(0, 30), () => bootstrap.register(process))
    } else {
      slot.process = new DecodeRank(this, slot)
      this.#decodes.set(slot.process.incarnation, slot.process)
    }
    if (slot.starts > 1) {
      slot.mask |= fault.restart
      this.log(() => `${slot.process.name} starts`)
    }
  }

  /** The process is gone with its memory; another starts in its place, unless `restartAfter` is Infinity: then when all is healed. */
  crash(slot: AnySlot, restartAfter: number): void {
    const { process } = slot
    if (!process.alive) return
    this.log(() => `${process.name} dies`)
    this.hit(slot)
    slot.mask |= fault.restart
    process.alive = false
    for (const wire of [...this.wires.values()]) {
      if (wire.prefill === process) wire.end('server')
      else if (wire.decode === process) wire.end('client')
    }
    if (process.side === 'decode') process.closeSockets()
    else {
      const bootstrap = this.bootstrapOf(slot.instance)
      bootstrap.lapse(process)
      if (bootstrap.host === process) this.#tellBootstrapLost(bootstrap)
    }
    this.engines.onExit(process)
    for (const leg of process.legs.values()) abortSiblings(this, leg.job)
    if (restartAfter < Infinity)
      this.clock.after(restartAfter, () => {
        if (slot.process === process) this.start(slot)
      })
  }

  /** A host whose engine is broken is ended and started again. */
  superviseAfter(slot: AnySlot, process: PrefillRank | DecodeRank): void {
    this.hit(slot)
    this.clock.after(this.random.between(20, 300), () => {
      if (slot.process === process) this.crash(slot, 0)
    })
  }

  /** A fault concerns the process: its requests may fail. */
  hit(slot: AnySlot): void {
    slot.hitAt = this.clock.now
    for (const job of this.jobs) {
      if (!job.clean) continue
      const instance = slot.process.side === 'prefill' ? job.prefill : job.decode
      if (instance === slot.instance) job.clean = false
    }
  }

  // Network

  isCut(a: AnySlot, b: AnySlot): boolean {
    return this.#cuts.size > 0 && (this.#cuts.get(cutKey(a, b)) ?? 0) > this.clock.now
  }

  /** Nothing passes between two processes for a while. Their connection may break meanwhile. */
  cut(decode: DecodeSlot, prefill: PrefillSlot, ms: number): void {
    this.hit(decode)
    this.hit(prefill)
    decode.mask |= fault.partition
    prefill.mask |= fault.partition
    this.#cuts.set(cutKey(decode, prefill), this.clock.now + ms)
    this.log(() => `nothing passes between ${decode.name} and ${prefill.name} for ${ms} ms`)
    const between = () =>
      [...this.wires.values()].filter((w) => w.decode.slot === decode && w.prefill.slot === prefill)
    if (ms < Infinity)
      this.clock.after(ms + 1, () => {
        for (const wire of between()) wire.release()
      })
    this.clock.after(this.random.between(200, 900), () => {
      if (this.isCut(decode, prefill)) for (const wire of between()) wire.end('network')
    })
  }

  loseBootstrap(instance: number, ms: number): void {
    const bootstrap = this.bootstrapOf(instance)
    for (const slot of bootstrap.slots) {
      this.hit(slot)
      slot.mask |= fault.bootstrap
    }
    bootstrap.unreachable = true
    this.log(() => `nobody reaches ${bootstrap.from} for ${ms} ms`)
    this.#tellBootstrapLost(bootstrap)
    this.untilHealed(ms, () => {
      bootstrap.unreachable = false
    })
  }

  #tellBootstrapLost(bootstrap: Bootstrap): void {
    for (const { process } of this.decodeSlots)
      this.clock.after(this.random.between(0, 100), () => process.onBootstrapLost(bootstrap.from))
  }

  /** A message as its receiver gets it. */
  checked(message: Message): Message {
    return this.shape.checked ? parseMessage(structuredClone(message)) : message
  }

  // The end of faults

  /** Undoes something after a while, or when the faults stop. */
  untilHealed(ms: number, undo: () => void): void {
    const once = () => {
      if (this.#onHeal.delete(once)) undo()
    }
    this.#onHeal.add(once)
    this.clock.after(ms, once)
  }

  /** Faults stop for these processes: who is frozen thaws, who is dead starts, what is between them passes. */
  heal(slots: readonly AnySlot[]): void {
    this.log(() => `faults stop for ${slots.map(({ name }) => name).join(', ')}`)
    if (slots.length === this.slots.length) for (const undo of [...this.#onHeal]) undo()
    for (const slot of slots) {
      Object.assign(slot.armed, unarmed())
      slot.slowness = 1
      for (const other of slots) if (this.isCut(slot, other)) this.#cuts.delete(cutKey(slot, other))
      if (isPrefill(slot)) this.bootstrapOf(slot.instance).unreachable = false
    }
    for (const wire of [...this.wires.values()])
      if (slots.includes(wire.decode.slot) && slots.includes(wire.prefill.slot)) wire.release()
    for (const slot of slots) {
      if (!slot.process.alive) this.start(slot)
      else slot.process.thaw()
    }
  }

  // Verdicts

  check(holds: boolean, check: string, text: () => string): void {
    if (!holds) this.violate(check, text())
  }

  violate(check: string, text: string): never {
    throw new Violation(check, text)
  }

  log(text: () => string): void {
    this.trace.lines?.push(`${String(Math.round(this.clock.now)).padStart(6)}  ${text()}`)
  }
}

export function isPrefill(slot: AnySlot): slot is PrefillSlot {
  return 'endpoint' in slot
}

function cutKey(a: AnySlot, b: AnySlot): string {
  return isPrefill(a) ? `${b.name}/${a.name}` : `${a.name}/${b.name}`
}
