/**
 * Staging memory. At prefill runs are gathered in it, at decode scattered from it, each after a while and in several steps, by
 * the books of whose bay and whose pages it is: a bay belongs to the load that decode has told it of, until it is told to
 * another one.
 */
import { eachCopy } from '@kvx/contract'
import type { DecodeEffect, MessageOf, PrefillEffect } from '@kvx/core/protocol'
import type { ReceiveLeg, SendLeg } from '../books/legs.ts'
import { occupier } from '../books/pages.ts'
import type { Context } from '../machine/context.ts'
import { violate } from '../machine/violation.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { expand } from './copies.ts'
import type { Writes } from './writes.ts'

interface Gather {
  readonly from: PrefillRank
  readonly reader: SendLeg
  readonly offset: number
  readonly end: () => void
}

interface Scatter {
  readonly owner: DecodeRank
  readonly leg: ReceiveLeg
  readonly offset: number
  readonly end: () => void
}

export class Staging {
  readonly #context: Context
  readonly #writes: Writes
  readonly #gathers = new Set<Gather>()
  readonly #scatters = new Set<Scatter>()

  constructor(context: Context, writes: Writes) {
    this.#context = context
    this.#writes = writes
  }

  // At prefill

  gather(from: PrefillRank, { piece, plan, offset }: PrefillEffect & { do: 'gather' }): void {
    const { random } = this.#context
    const { regions } = from.slot.memory
    const at: number[] = []
    eachCopy(plan, (region, source, _, __, bytes) => {
      for (let i = 0; i < bytes; i++) at.push(regions[region]! + source + i)
    })
    const reader = from.ownerOf(at[0] ?? -1)
    if (reader === undefined || reader === occupier || reader.side !== 'prefill')
      violate('gather from a foreign page', `${from.name} gathers what is of no request`)
    const bay = from.bayAt(offset, at.length)
    const before = from.gathered.get(bay)
    if (before && this.#writes.readsBay(from, before))
      violate('bay gathered into while it is read', `${from.name}, offset ${offset}`)
    for (const other of this.#gathers)
      if (other.from === from && other.offset === offset)
        violate('bay gathered into twice', `${from.name}, offset ${offset}`)
    const gathered = { plan, reader, bytes: at.length }
    from.gathered.set(bay, gathered)
    const copy = () => {
      for (const [i, source] of at.entries()) {
        if (from.ownerOf(source) !== reader)
          violate('gather from a foreign page', `${from.name} gathers a page of another`)
        from.memory[bay + i] = from.memory[source]!
      }
    }
    const running: Gather = {
      ...{ from, reader, offset },
      end: () => {
        if (!this.#gathers.delete(running)) return
        copy()
        from.step({ type: 'load.gathered', piece })
      },
    }
    this.#gathers.add(running)
    from.later(random.between(1, 15), running.end)
  }

  // At decode

  /** Decode says where the bay of a load is. */
  onBay(owner: DecodeRank, { ep, load, offset }: MessageOf<'bay'>): void {
    if (offset === undefined) return
    const reserve = owner.epochs.get(ep)
    const bay = owner.bayAt(offset, 0)
    const before = owner.bays.get(bay)
    if (before?.reserve === reserve && before?.load === load) return
    if (before && this.#writes.mayLandIn(owner, before))
      violate('bay given away early', `${owner.name}: a write may still land at ${offset}`)
    for (const scatter of this.#scatters)
      if (scatter.owner === owner && scatter.offset === offset)
        violate('bay given away early', `${owner.name} still scatters from ${offset}`)
    if (!reserve || reserve.over)
      violate('bay for nobody', `${owner.name} gives one to epoch ${ep}`)
    owner.bays.set(bay, { reserve, load, posted: undefined })
  }

  /** Decode says that a load lies in its pages. */
  onScattered(owner: DecodeRank, { ep, load }: MessageOf<'scattered'>): void {
    const reserve = owner.epochs.get(ep)
    for (const bay of owner.bays.values()) {
      if (bay.reserve !== reserve || bay.load !== load) continue
      if (bay.posted?.scattered !== true)
        violate('scattered too early', `${owner.name} says so of load ${load} of epoch ${ep}`)
    }
  }

  scatter(owner: DecodeRank, effect: DecodeEffect & { do: 'scatter' }): void {
    const { request, epoch, load, plan, offset } = effect
    const { random } = this.#context
    const at = owner.bayAt(offset, 0)
    const bay = owner.bays.get(at)
    if (bay?.reserve.epoch !== epoch || bay.load !== load)
      violate('scattered from a foreign bay', `${owner.name}, load ${load} of epoch ${epoch}`)
    const { leg } = bay.reserve
    const { posted } = bay
    const { regions } = owner.slot.memory
    const to: number[] = []
    expand(plan, { source: regions, destination: regions }, (_, destination, bytes) => {
      for (let i = 0; i < bytes; i++) to.push(destination + i)
    })
    if (!posted || String(posted.to) !== String(to))
      violate('scattered elsewhere', `${owner.name}: not where room ${leg.job.room} was sent`)
    if (posted.scattered) violate('scattered twice', `${owner.name}: load ${load} of ${epoch}`)
    let next = 0
    const copy = (end: number) => {
      for (; next < end; next++) {
        if (owner.bays.get(at) !== bay)
          violate('bay given away early', `${owner.name} still scatters from ${offset}`)
        if (owner.ownerOf(to[next]!) !== leg || leg.phase === 'success')
          violate(
            'late scatter',
            `${owner.name} scatters into a page that is not room ${leg.job.room}'s`,
          )
        owner.memory[to[next]!] = owner.memory[at + next]!
      }
    }
    const running: Scatter = {
      ...{ owner, leg, offset },
      end: () => {
        if (!this.#scatters.delete(running)) return
        copy(to.length)
        posted.scattered = true
        owner.step({ type: 'scattered', request, epoch, load })
      },
    }
    this.#scatters.add(running)
    owner.later(random.between(1, 10), () => {
      if (this.#scatters.has(running)) copy(to.length >> 1)
    })
    owner.later(random.between(10, 40), running.end)
  }

  /** Its engine is closed, which waits for its copies. */
  onClose(process: PrefillRank | DecodeRank): void {
    for (const { from, end } of [...this.#gathers]) if (from === process) end()
    for (const { owner, end } of [...this.#scatters]) if (owner === process) end()
    if (process.side === 'prefill') process.gathered.clear()
    else process.bays.clear()
  }

  /** The process is gone, with its threads. */
  onExit(process: PrefillRank | DecodeRank): void {
    for (const gather of this.#gathers) if (gather.from === process) this.#gathers.delete(gather)
    for (const scatter of this.#scatters)
      if (scatter.owner === process) this.#scatters.delete(scatter)
  }

  // What others ask

  isRead(leg: SendLeg): boolean {
    return [...this.#gathers].some(({ reader }) => reader === leg)
  }

  isWritten(leg: ReceiveLeg): boolean {
    return [...this.#scatters].some((scatter) => scatter.leg === leg)
  }
}
