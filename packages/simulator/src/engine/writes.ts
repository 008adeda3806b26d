/**
 * Writes. One lands in pieces, at any moment until it has settled, also after its failure was reported, byte
 * for byte in the target's memory. What can keep its bytes out is the fence:
 *
 * - `exit`: the writer's own threads copy, so nothing lands once its process is gone, and nothing while it
 *   is frozen. An owner's fence resolves when no connection of the writer is left.
 * - `peer`: the owner revokes the writer's access; nothing that was posted before lands afterwards.
 * - `engine`: nothing can be revoked. What a dead writer had posted still lands, until the owner closes its
 *   engine. With the medium `sockets` the same is true after the writer has closed its own.
 */
import type { PrefillEffect } from '@kvx/core/protocol'
import type { ReceiveLeg, SendLeg } from '../books/legs.ts'
import { spoil } from '../books/legs.ts'
import type { Context } from '../machine/context.ts'
import type { Fate } from '../machine/process.ts'
import { violate } from '../machine/violation.ts'
import type { Cuts } from '../network/cuts.ts'
import type { EngineLink } from '../ranks/link.ts'
import type { DecodeRank, TakenBay } from '../ranks/decode.ts'
import type { Gathered, PrefillRank } from '../ranks/prefill.ts'
import { fault } from '../shape/faults.ts'
import { cargoOf } from './cargo.ts'
import { isMeant } from './digests.ts'
import { broken, canLand, type StagedCargo, type Write } from './write.ts'

export class Writes {
  readonly #context: Context
  readonly #cuts: Cuts
  readonly #writes = new Set<Write>()

  constructor(context: Context, cuts: Cuts) {
    this.#context = context
    this.#cuts = cuts
  }

  /** @param link undefined when it was closed meanwhile */
  post(
    from: PrefillRank,
    link: EngineLink | undefined,
    effect: PrefillEffect & { do: 'post' },
  ): void {
    const { clock, random, shape } = this.#context
    const { piece } = effect
    if (!link) {
      // As the manager does it.
      from.later(1, () => {
        from.step({ type: 'piece.failed', piece, error: broken('the link was closed') })
        from.step({ type: 'piece.settled', piece })
      })
      return
    }
    const cargo = cargoOf(from, link, effect.plan, random)
    const { bytes, reader, owner } = cargo
    const { armed } = from.slot
    const fate = armed.fates.shift() ?? 'done'
    const flips = armed.flippedBytes > 0 && bytes > 0 && shape.verify
    if (fate !== 'done' || flips) {
      from.slot.mask |= fault.engine
      for (const leg of [reader, owner]) {
        if (!leg) continue
        leg.job.mask |= fault.engine
        spoil(leg.job)
      }
    }
    if (flips) armed.flippedBytes--
    const reserve = owner?.reserves.findLast(({ peer }) => peer === from.incarnation)
    const write: Write = {
      ...cargo,
      ...{ piece, from, link, flips },
      next: 0,
      fate: fate === 'never settles' && shape.fence !== 'engine' ? 'completion lost' : fate,
      deadline: clock.now + effect.deadlineMs,
      epoch: reserve?.epoch ?? 0,
      told: 'no',
      settled: false,
      abandoned: false,
      sent: undefined,
    }
    this.#writes.add(write)
    const inFlight = this.#inFlight(from, link)
    // A larger single write goes alone.
    if (inFlight > bytes && inFlight > shape.limits.bytesInFlightPerPeer)
      violate('credits exceeded', `${from.name} has ${inFlight} bytes in flight to one peer`)
    this.#advanceAfter(write, random.between(1, 12))
  }

  cancel(from: PrefillRank, piece: number): void {
    for (const write of this.#writes)
      if (write.from === from && write.piece === piece) this.#cancel(write)
  }

  cancelOf(link: EngineLink): void {
    for (const write of this.#writes) if (write.link === link) this.#cancel(write)
  }

  /** The writer closes its engine. The answer ends its writes, and must be called once. */
  close(from: PrefillRank): () => void {
    const { random, shape } = this.#context
    const promises = shape.fence !== 'engine' || shape.medium === 'network card'
    const closed = [...this.#writes].filter((write) => write.from === from)
    for (const write of closed) {
      if (promises) {
        // Some of what is on the way lands before the engine is closed.
        while (write.next < write.copies.length && random.chance(0.5)) this.#land(write)
        write.next = write.copies.length
      } else {
        // What had not left the process never will; the rest is in the sockets, and needs the pages no more.
        write.abandoned = true
        write.sent = from.memory.slice()
        if (random.chance(0.3)) write.next = write.copies.length
      }
    }
    return () => {
      for (const write of closed) {
        if (write.told === 'no') this.#fail(write, 'the engine was closed')
        if (promises) this.#settle(write)
      }
    }
  }

  /** The writer is gone. Its bytes may go on without it, except where it copied them itself. */
  onExit(from: PrefillRank): void {
    if (this.#context.shape.fence !== 'exit') return
    for (const write of [...this.#writes]) if (write.from === from) this.#writes.delete(write)
  }

  // What the wire does

  /** Stops what is not yet posted; the rest goes on. */
  #cancel(write: Write): void {
    const { random } = this.#context
    if (write.told !== 'no' || !write.from.alive) return
    if (random.chance(0.4)) write.next = write.copies.length
    write.from.later(random.between(0, 10), () => this.#fail(write, 'cancelled'))
  }

  #advanceAfter(write: Write, ms: number): void {
    this.#context.clock.after(ms * write.from.slot.slowness, () => this.#advance(write))
  }

  #advance(write: Write): void {
    if (write.settled || !this.#writes.has(write)) return
    const { random, clock } = this.#context
    const { from, fate } = write
    const total = write.copies.length
    if (from.alive && write.told === 'no' && clock.now >= write.deadline) {
      from.act(() => this.#fail(write, 'its deadline passed'))
    }
    if (this.#isStalled(write)) {
      this.#advanceAfter(write, random.between(30, 120))
      return
    }
    if (!this.#canLand(write)) {
      // Its target is gone, or does not let it in: that ends as a failure.
      write.next = total
      this.#end(write, fate === 'done' ? 'fails before' : fate)
      return
    }
    const stops = fate === 'fails before' ? 0 : fate === 'fails during' ? total / 2 : total
    if (write.told === 'no' && write.next >= stops && fate !== 'done') {
      this.#end(write, fate)
      // What was posted goes on after the failure was reported.
      if (fate === 'fails before') write.next = total
    } else if (write.next < total) {
      // However many copies it is, it arrives in about ten steps.
      const pause = Math.min(0.3, 30 / total)
      const share = random.between(1, 3)
      const count = Math.max(3, Math.ceil(total / 3 / share) * 3)
      const limit =
        write.told === 'no' ? Math.max(write.next + 3, Math.floor(stops / 3) * 3) : total
      while (write.next < Math.min(total, write.next + count) && write.next < limit) {
        this.#land(write)
        if (random.chance(pause)) break
      }
      if (write.next >= total && fate === 'done') {
        this.#end(write, 'done')
        return
      }
      this.#advanceAfter(write, random.between(1, write.told === 'no' ? 25 : 250))
      return
    } else if (write.told === 'no') {
      this.#end(write, fate)
      return
    }
    if (write.next < total) this.#advanceAfter(write, random.between(1, 250))
  }

  /** The engine reports; and some time afterwards nothing of the write can land any more. */
  #end(write: Write, fate: Fate): void {
    const { from } = write
    const { random } = this.#context
    if (!from.alive) {
      if (write.next >= write.copies.length) this.#writes.delete(write)
      return
    }
    if (fate === 'done') {
      from.later(random.between(0, 5), () => {
        if (write.told !== 'no') {
          this.#settle(write)
          return
        }
        write.told = 'done'
        from.step({ type: 'piece.done', piece: write.piece })
        if (random.chance(0.5)) this.#settle(write)
        else from.later(random.between(1, 60), () => this.#settle(write))
      })
      return
    }
    const lost = fate === 'completion lost' || fate === 'never settles'
    const wait = lost
      ? Math.max(1, write.deadline - this.#context.clock.now)
      : random.between(1, 20)
    from.later(wait, () => this.#fail(write, fate))
  }

  #fail(write: Write, why: string): void {
    const { from } = write
    if (write.told !== 'no' || write.settled) return
    write.told = 'failed'
    this.#context.log(
      () =>
        `${from.name}: write ${write.piece} is reported as failed (${why}), ${(write.copies.length - write.next) / 3} copies may still land`,
    )
    from.step({ type: 'piece.failed', piece: write.piece, error: broken(why) })
    this.#settleAfter(write)
  }

  #settleAfter(write: Write): void {
    const { random, shape } = this.#context
    if (write.abandoned) return
    if (write.fate === 'never settles' && shape.fence === 'engine') return
    write.from.later(random.chance(0.3) ? random.between(100, 700) : random.between(1, 80), () => {
      // A stream that stands still ends only when it goes on or its link is given up.
      if (this.#isStalled(write) && random.chance(0.7)) this.#settleAfter(write)
      else this.#settle(write)
    })
  }

  #settle(write: Write): void {
    if (write.settled || write.abandoned) return
    if (!write.from.alive) return
    write.settled = true
    write.next = write.copies.length
    this.#writes.delete(write)
    this.#context.log(() => `${write.from.name}: write ${write.piece} has settled`)
    write.from.step({ type: 'piece.settled', piece: write.piece })
  }

  /** Nothing moves for the moment. */
  #isStalled({ from, link, told }: Write): boolean {
    const { fence, medium } = this.#context.shape
    if (this.#cuts.isCut(link.target.slot, from.slot)) return true
    if (fence === 'exit' && from.frozen) return true
    return medium === 'sockets' && fence === 'engine' && link.target.frozen && told !== 'done'
  }

  #canLand(write: Write): boolean {
    return canLand(write, this.#context.shape.fence)
  }

  #land(write: Write): void {
    if (!this.#canLand(write)) return
    const { from, link, copies } = write
    const { target } = link
    const source = copies[write.next]!
    const destination = copies[write.next + 1]!
    const bytes = copies[write.next + 2]!
    write.next += 3
    if (write.staged) {
      this.#landInBay(write, write.staged, [source, destination, bytes])
      return
    }
    const to = target.ownerOf(destination)
    if (to === undefined || to !== write.owner)
      violate(
        'late write',
        `a byte of ${from.name} landed in a page of ${target.name} that belongs to ${to === undefined ? 'nobody' : 'another'}`,
      )
    if (write.owner.phase === 'success')
      violate(
        'write after success',
        `a byte of ${from.name} landed in ${target.name} after success`,
      )
    // What an engine that is closed has sent, and a dead process, was read before.
    if (!write.sent && from.alive && from.ownerOf(source) !== write.reader)
      violate('source page reused', `a write of ${from.name} read a page that was given to another`)
    for (let i = 0; i < bytes; i++)
      target.memory[destination + i] = (write.sent ?? from.memory)[source + i]!
    // What lies behind the last token of a prompt nobody misses.
    if (write.flips && isMeant(write.owner, destination)) {
      write.flips = false
      target.memory[destination] = target.memory[destination]! ^ 0x55
      for (const reserve of write.owner.reserves) reserve.falsified = true
    }
  }

  #landInBay(
    write: Write,
    { gathered, bay, from: start, to, meant }: StagedCargo,
    [source, destination, bytes]: readonly [number, number, number],
  ): void {
    const { from, link, owner } = write
    const { target } = link
    if (!bay || !owner || target.bays.get(to) !== bay)
      violate('late write', `a byte of ${from.name} landed in a bay of another at ${target.name}`)
    if (bay.posted?.scattered)
      violate('write after scattering', `a byte of ${from.name} landed in ${target.name}`)
    if (!write.sent && from.alive && from.gathered.get(start) !== gathered)
      violate('source bay reused', `a write of ${from.name} read a bay that was given to another`)
    for (let i = 0; i < bytes; i++)
      target.memory[destination + i] = (write.sent ?? from.memory)[source + i]!
    const meaning = meant?.to[destination - to]
    if (write.flips && meaning !== undefined && isMeant(owner, meaning)) {
      write.flips = false
      target.memory[destination] = target.memory[destination]! ^ 0x55
      for (const reserve of owner.reserves) reserve.falsified = true
    }
  }

  // What others ask

  /** A write may still land in this bay. */
  mayLandIn(owner: DecodeRank, bay: TakenBay): boolean {
    for (const write of this.#writes)
      if (write.staged?.bay === bay && write.link.target === owner && this.#canLand(write))
        return true
    return false
  }

  /** A write may still read what was gathered. */
  readsBay(from: PrefillRank, gathered: Gathered): boolean {
    for (const write of this.#writes)
      if (
        write.from === from &&
        write.staged?.gathered === gathered &&
        !write.sent &&
        this.#canLand(write)
      )
        return true
    return false
  }

  /** Links that something goes over which has not settled. */
  linksInUse(): EngineLink[] {
    return [...this.#writes].map(({ link }) => link)
  }

  /** Bytes posted to this generation of the target and not settled. */
  #inFlight(from: PrefillRank, { target, generation }: EngineLink): number {
    let bytes = 0
    for (const { from: writer, link, abandoned, bytes: some } of this.#writes)
      if (writer === from && link.target === target && link.generation === generation && !abandoned)
        bytes += some
    return bytes
  }

  /** Something of a write may still land in the pages of this leg; perhaps only of one writer and epoch. */
  mayLand(leg: ReceiveLeg, of?: { from: PrefillRank; epoch: number }): boolean {
    for (const write of this.#writes) {
      if (write.owner !== leg || !this.#canLand(write)) continue
      if (!of || (write.from === of.from && write.epoch === of.epoch)) return true
    }
    return false
  }

  /** A write may still read the pages of this leg. */
  mayRead(leg: SendLeg): boolean {
    for (const write of this.#writes)
      if (write.reader === leg && !write.sent && this.#canLand(write)) return true
    return false
  }
}
