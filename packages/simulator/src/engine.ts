/**
 * The transfer engines. A write lands in pieces, at any moment until it has settled, also after its
 * failure was reported, byte for byte in the target's memory. What can keep its bytes out is the fence:
 *
 * - `exit`: the writer's own threads copy, so nothing lands once its process is gone, and nothing while it
 *   is frozen. An owner's fence resolves when no connection of the writer is left.
 * - `peer`: the owner revokes the writer's access; nothing that was posted before lands afterwards.
 * - `engine`: nothing can be revoked. What a dead writer had posted still lands, until the owner closes its
 *   engine. With the medium `sockets` the same is true after the writer has closed its own.
 */
import { KvxError } from '@kvx/contract'
import type { TransferPlan } from '@kvx/core'
import type { PrefillEffect } from '@kvx/core/protocol'
import type { DecodeRank } from './decode.ts'
import { expand } from './expand.ts'
import { fault } from './faults.ts'
import type { ReceiveLeg, SendLeg } from './legs.ts'
import type { PrefillRank } from './prefill.ts'
import { components } from './content.ts'
import { occupier, type Fate, type Owner } from './process.ts'
import type { World } from './world.ts'

/** What a writer has connected to: memory of one generation of one target. */
export interface EngineLink {
  readonly target: DecodeRank
  readonly generation: string
  /** Generation of the writer's engine. */
  readonly writer: string
  state: 'opening' | 'open' | 'closed'
  /** The owner has revoked it (fence kind `peer`). */
  revoked: boolean
  /** An attempt to connect ends soon afterwards; it may still succeed before. */
  abort: () => void
}

/** Copies of a write: source, destination and length of each, in the order in which they land. */
interface Write {
  readonly piece: number
  readonly from: PrefillRank
  readonly link: EngineLink
  readonly copies: Int32Array
  /** Index of the next copy that lands. */
  next: number
  readonly bytes: number
  readonly fate: Fate
  readonly deadline: number
  readonly reader: SendLeg | undefined
  readonly owner: ReceiveLeg | undefined
  readonly epoch: number
  told: 'no' | 'done' | 'failed'
  settled: boolean
  /** Its engine was closed and could not promise for the target. */
  abandoned: boolean
  flips: boolean
  /** The writer's memory when it had sent everything; undefined while its pages are still read. */
  sent: Uint8Array | undefined
}

/** All engines of the world, for they act upon each other's memory. */
export class Engines {
  readonly world: World
  readonly #writes = new Set<Write>()

  constructor(world: World) {
    this.world = world
  }

  // What a writer does

  openLink(from: PrefillRank, effect: PrefillEffect & { do: 'openLink' }): void {
    const { world } = this
    const key = linkKey(effect.peer, effect.generation)
    const target = world.decodeOf(effect.peer)
    const writer = from.generation
    if (!target) {
      world.violate('link to nobody', `${from.name} connects to ${effect.peer}`)
      return
    }
    const link: EngineLink = {
      target,
      generation: effect.generation,
      writer,
      state: 'opening',
      revoked: false,
      abort: () => undefined,
    }
    from.links.set(key, link)
    from.planners.set(effect.peer, effect.planner)
    const end = world.clock.now + effect.timeoutMs
    const fails = from.slot.armed.failingConnects > 0
    if (fails) {
      from.slot.armed.failingConnects--
      from.slot.mask |= fault.engine
    }
    // Whatever happens to the link meanwhile, the attempt ends, and that is told.
    const fail = () => {
      from.opening.delete(fail)
      this.#close(link)
      if (from.links.get(key) === link) from.links.delete(key)
      world.log(() => `${from.name} cannot connect its engine to ${target.name}`)
      const error = new KvxError('ERR_KVX_CONNECT_FAILED', 'no connection of the engines', {
        phase: 'hello',
      })
      from.step({ type: 'link.failed', peer: effect.peer, generation: effect.generation, error })
    }
    from.opening.add(fail)
    link.abort = () => {
      from.later(world.random.between(1, 20), () => {
        if (from.opening.has(fail)) fail()
      })
    }
    const attempt = () => {
      if (!from.opening.has(fail)) return
      const barred = target.barred.has(writer)
      const here = target.alive && target.generation === link.generation && !target.frozen
      if (here && !barred && !fails && !world.isCut(target.slot, from.slot)) {
        from.opening.delete(fail)
        if (link.state === 'opening') link.state = 'open'
        world.log(() => `${from.name} has connected its engine to ${target.name}`)
        target.everConnected.add(writer)
        from.step({ type: 'link.open', peer: effect.peer, generation: effect.generation })
      } else if (world.clock.now >= end || fails || barred || !target.alive) {
        fail()
      } else {
        from.later(world.random.between(20, 90), attempt)
      }
    }
    from.later(world.random.between(1, 15), attempt)
  }

  closeLink(from: PrefillRank, peer: string, generation: string): void {
    const key = linkKey(peer, generation)
    const link = from.links.get(key)
    if (!link) return
    from.links.delete(key)
    this.#close(link)
    link.abort()
    for (const write of this.#writes) if (write.link === link) this.#cancel(write)
  }

  #close(link: EngineLink): void {
    link.state = 'closed'
  }

  post(from: PrefillRank, effect: PrefillEffect & { do: 'post' }): void {
    const { world } = this
    const { random } = world
    const link = from.links.get(linkKey(effect.peer, effect.generation))
    const planner = from.planners.get(effect.peer)
    if (link?.state !== 'open' || !planner) {
      // As the manager does it: the link was closed meanwhile.
      from.later(1, () => {
        from.step({
          type: 'piece.failed',
          piece: effect.piece,
          error: broken('the link was closed'),
        })
        from.step({ type: 'piece.settled', piece: effect.piece })
      })
      return
    }
    const plan = planner.plan(effect.parts)
    const { copies, bytes, source, destination } = this.#shadow(from, link, plan)
    const reader = isLeg(source) ? (source as SendLeg) : undefined
    const owner = isLeg(destination) ? (destination as ReceiveLeg) : undefined
    const fate = from.slot.armed.fates.shift() ?? 'done'
    const flips = from.slot.armed.flippedBytes > 0 && bytes > 0 && world.shape.verify
    if (fate !== 'done' || flips) {
      from.slot.mask |= fault.engine
      if (reader) {
        reader.job.mask |= fault.engine
        reader.job.clean = false
      }
      if (owner) {
        owner.job.mask |= fault.engine
        owner.job.clean = false
      }
    }
    if (flips) from.slot.armed.flippedBytes--
    const reserve = owner?.reserves.findLast(({ peer }) => peer === from.incarnation)
    const write: Write = {
      piece: effect.piece,
      from,
      link,
      copies,
      next: 0,
      bytes,
      fate: fate === 'never settles' && world.shape.fence !== 'engine' ? 'completion lost' : fate,
      deadline: world.clock.now + effect.deadlineMs,
      reader,
      owner,
      epoch: reserve?.epoch ?? 0,
      told: 'no',
      settled: false,
      abandoned: false,
      flips,
      sent: undefined,
    }
    this.#writes.add(write)
    world.checks.onPost(from, this.inFlight(link), bytes)
    this.#advanceAfter(write, random.between(1, 12))
  }

  cancel(from: PrefillRank, piece: number): void {
    for (const write of this.#writes)
      if (write.from === from && write.piece === piece) this.#cancel(write)
  }

  /** Stops what is not yet posted; the rest goes on. */
  #cancel(write: Write): void {
    const { random } = this.world
    if (write.told !== 'no' || !write.from.alive) return
    if (random.chance(0.4)) write.next = write.copies.length
    write.from.later(random.between(0, 10), () => this.#fail(write, 'cancelled'))
  }

  /** Closes the writer's engine and opens a fresh one. */
  recyclePrefill(from: PrefillRank): void {
    const { world } = this
    const { random } = world
    from.slot.mask |= fault.recycle
    world.log(() => `${from.name} closes its engine`)
    from.later(random.between(10, 120), () => {
      const promises = world.shape.fence !== 'engine' || world.shape.medium === 'network card'
      for (const link of from.links.values()) this.#close(link)
      for (const fail of from.opening) fail()
      from.links.clear()
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
      const settle = () => {
        for (const write of closed) {
          if (write.told === 'no') this.#fail(write, 'the engine was closed')
          if (promises) this.#settle(write)
        }
      }
      const early = random.chance(0.5)
      if (early) settle()
      this.#reopen(from, () => {
        from.generation = world.name('e')
        world.log(() => `${from.name} has a new engine`)
        from.step({ type: 'engine.recycled', generation: from.generation })
      })
      if (!early) from.later(random.between(0, 20), settle)
    })
  }

  // What an owner does

  /** For kinds `peer` and `exit`. */
  fence(owner: DecodeRank, writer: string): void {
    const { world } = this
    // Who connects again later may write again: that belongs to a new hello.
    const before = this.#linksOf(owner, writer)
    const attempt = () => {
      if (world.shape.fence === 'peer') {
        for (const link of before) link.revoked = true
      } else if (this.#linksOf(owner, writer).some((link) => this.#isConnected(link))) {
        owner.later(world.random.between(20, 90), attempt)
        return
      }
      if (!owner.everConnected.has(writer)) owner.barred.add(writer)
      owner.onFenced(writer)
    }
    owner.later(world.random.between(1, 60), attempt)
  }

  #linksOf(owner: DecodeRank, writer: string): EngineLink[] {
    const links = new Set<EngineLink>()
    for (const { link } of this.#writes)
      if (link.target === owner && link.writer === writer) links.add(link)
    for (const { process } of this.world.prefillSlots)
      for (const link of process.links.values())
        if (link.target === owner && link.writer === writer) links.add(link)
    return [...links]
  }

  /** The writer's process lives and holds the connection, or something of it goes on. */
  #isConnected(link: EngineLink): boolean {
    const from = this.world.writerOf(link.writer)
    if (!from?.alive) return false
    if (link.state !== 'closed') return true
    for (const write of this.#writes) if (write.link === link && !write.settled) return true
    return false
  }

  /** Closes the owner's engine, the fence for everybody, and opens a fresh one. */
  recycleDecode(owner: DecodeRank): void {
    const { world } = this
    owner.slot.mask |= fault.recycle
    world.log(() => `${owner.name} closes its engine`)
    owner.later(world.random.between(10, 120), () => {
      owner.generation = ''
      this.#reopen(owner, () => {
        owner.generation = world.name('e')
        owner.onRecycled()
      })
    })
  }

  #reopen(process: PrefillRank | DecodeRank, then: () => void): void {
    const { world } = this
    const { armed } = process.slot
    process.later(world.random.between(1, 40), () => {
      if (armed.failingReopens > 0) {
        armed.failingReopens--
        process.onEngineFailed(
          new KvxError('ERR_KVX_BACKEND_UNAVAILABLE', 'no fresh engine', { phase: 'open' }),
        )
      } else {
        then()
      }
    })
  }

  /** What a dead process had on the way. */
  onExit(process: PrefillRank | DecodeRank): void {
    for (const write of [...this.#writes]) {
      if (write.from === process) {
        // Nobody is told any more. Its bytes may go on without it, except where it copied them itself.
        if (this.world.shape.fence === 'exit') this.#writes.delete(write)
      }
    }
    this.#tellGone(process)
  }

  /** Those that were connected with its engine may learn of its end from theirs, sooner or later: not every engine knows. */
  #tellGone(process: PrefillRank | DecodeRank): void {
    const { generation, name } = process
    for (const { process: other } of this.world.slots) {
      if (!other.alive || other.side === process.side || this.world.random.chance(0.5)) continue
      const isConnected =
        other.side === 'decode'
          ? other.everConnected.has(generation)
          : [...other.links.values()].some(
              (link) => link.generation === generation && link.state === 'open',
            )
      if (!isConnected) continue
      other.later(this.world.random.between(0, 400), () => {
        this.world.log(() => `the engine of ${other.name} says that ${name} is gone`)
        other.step({ type: 'peer.gone', generation, reason: 'Its process has exited.' })
      })
    }
  }

  // What the wire does

  #advanceAfter(write: Write, ms: number): void {
    this.world.clock.after(ms * write.from.slot.slowness, () => this.#advance(write))
  }

  #advance(write: Write): void {
    if (write.settled || !this.#writes.has(write)) return
    const { world } = this
    const { random, clock } = world
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
      const share = random.between(1, 3)
      const count = Math.max(3, Math.ceil(total / 3 / share) * 3)
      const limit =
        write.told === 'no' ? Math.max(write.next + 3, Math.floor(stops / 3) * 3) : total
      while (write.next < Math.min(total, write.next + count) && write.next < limit) {
        this.#land(write)
        if (random.chance(0.3)) break
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
    const { random } = this.world
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
    const wait = lost ? Math.max(1, write.deadline - this.world.clock.now) : random.between(1, 20)
    from.later(wait, () => this.#fail(write, fate))
  }

  #fail(write: Write, why: string): void {
    const { from } = write
    if (write.told !== 'no' || write.settled) return
    write.told = 'failed'
    this.world.log(
      () =>
        `${from.name}: write ${write.piece} is reported as failed (${why}), ${(write.copies.length - write.next) / 3} copies may still land`,
    )
    from.step({ type: 'piece.failed', piece: write.piece, error: broken(why) })
    this.#settleAfter(write)
  }

  #settleAfter(write: Write): void {
    const { random, shape } = this.world
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
    this.world.log(() => `${write.from.name}: write ${write.piece} has settled`)
    write.from.step({ type: 'piece.settled', piece: write.piece })
  }

  /** Nothing moves for the moment. */
  #isStalled({ from, link, told }: Write): boolean {
    const { world } = this
    if (world.isCut(link.target.slot, from.slot)) return true
    if (world.shape.fence === 'exit' && from.frozen) return true
    return (
      world.shape.medium === 'sockets' &&
      world.shape.fence === 'engine' &&
      link.target.frozen &&
      told !== 'done'
    )
  }

  #canLand(write: Write): boolean {
    const { from, link } = write
    const { target } = link
    if (write.settled || write.next >= write.copies.length) return write.next < write.copies.length
    if (!target.alive || target.generation !== link.generation || link.revoked) return false
    return this.world.shape.fence !== 'exit' || from.alive
  }

  #land(write: Write): void {
    if (!this.#canLand(write)) return
    const { world } = this
    const { from, link, copies } = write
    const { target } = link
    const source = copies[write.next]!
    const destination = copies[write.next + 1]!
    const bytes = copies[write.next + 2]!
    write.next += 3
    const to = ownerOf(target, destination)
    if (to === undefined || to !== write.owner) {
      world.violate(
        'late write',
        `a byte of ${from.name} landed in a page of ${target.name} that belongs to ${to === undefined ? 'nobody' : 'another'}`,
      )
    }
    if (write.owner?.phase === 'success')
      world.violate(
        'write after success',
        `a byte of ${from.name} landed in ${target.name} after success`,
      )
    // What an engine that is closed has sent, and a dead process, was read before.
    if (!write.sent && from.alive && ownerOf(from, source) !== write.reader)
      world.violate(
        'source page reused',
        `a write of ${from.name} read a page that was given to another`,
      )
    for (let i = 0; i < bytes; i++)
      target.memory[destination + i] = (write.sent ?? from.memory)[source + i]!
    // Checksums are of the cache alone.
    if (write.flips && target.slot.memory.pageAt[destination]! < 256) {
      write.flips = false
      target.memory[destination] = target.memory[destination]! ^ 0x55
      if (write.owner) for (const reserve of write.owner.reserves) reserve.falsified = true
    }
  }

  /** The owners on both sides, as the books say, of what a plan moves. */
  #shadow(from: PrefillRank, link: EngineLink, plan: TransferPlan) {
    const { world } = this
    const list: number[] = []
    let bytes = 0
    let source: Owner | undefined
    let destination: Owner | undefined
    let first = true
    const canLand = link.target.alive && link.target.generation === link.generation && !link.revoked
    expand(plan, (at, to, count) => {
      const reader = ownerOf(from, at)
      const owner = canLand ? ownerOf(link.target, to) : undefined
      if (first) {
        source = reader
        destination = owner
        first = false
      }
      if (reader === undefined || reader !== source)
        world.violate(
          'post from a foreign page',
          `${from.name} posts a page that is not of one request`,
        )
      if (canLand && (owner === undefined || owner !== destination))
        world.violate(
          'post to a foreign page',
          `${from.name} posts into a page of ${link.target.name} of nobody, or of another`,
        )
      list.push(at, to, count)
      bytes += count
    })
    if (isLeg(source) && isLeg(destination) && source.job.prompt !== destination.job.prompt)
      world.violate(
        'post to another prompt',
        `${from.name} posts prompt ${source.job.prompt} into pages of prompt ${destination.job.prompt}`,
      )
    return { copies: this.#disorder(list), bytes, source, destination }
  }

  /** Copies land in any order. */
  #disorder(list: number[]): Int32Array {
    const order = this.world.random.shuffle(Array.from({ length: list.length / 3 }, (_, i) => i))
    const copies = new Int32Array(list.length)
    for (const [i, from] of order.entries())
      for (let field = 0; field < 3; field++) copies[3 * i + field] = list[3 * from + field]!
    return copies
  }

  // What the checks ask

  /** Bytes posted over a link and not settled. */
  inFlight(link: EngineLink): number {
    let bytes = 0
    for (const write of this.#writes)
      if (write.link.target === link.target && write.from === this.world.writerOf(link.writer)) {
        // What went to a generation that its target has replaced is not on the way to this one.
        if (write.link.generation === link.generation && !write.abandoned) bytes += write.bytes
      }
    return bytes
  }

  /** Something of a write may still land in the pages of this leg. */
  mayLand(leg: ReceiveLeg): boolean {
    for (const write of this.#writes) if (write.owner === leg && this.#canLand(write)) return true
    return false
  }

  /** The same, of one epoch and writer. */
  mayLandOf(leg: ReceiveLeg, from: PrefillRank, epoch: number): boolean {
    for (const write of this.#writes)
      if (
        write.owner === leg &&
        write.from === from &&
        write.epoch === epoch &&
        this.#canLand(write)
      )
        return true
    return false
  }

  /** A write may still read the pages of this leg. */
  mayRead(leg: SendLeg): boolean {
    for (const write of this.#writes)
      if (write.reader === leg && !write.sent && this.#canLand(write)) return true
    return false
  }
}

export function linkKey(peer: string, generation: string): string {
  return `${peer}/${generation}`
}

export function ownerOf(process: PrefillRank | DecodeRank, at: number): Owner | undefined {
  const place = process.slot.memory.pageAt[at]!
  return process.books[components[place >> 8]!].owners[place & 255]
}

function isLeg(owner: Owner | undefined): owner is SendLeg | ReceiveLeg {
  return owner !== undefined && owner !== occupier
}

function broken(why: string): KvxError {
  return new KvxError('ERR_KVX_TRANSFER_FAILED', `the write failed: ${why}`, { phase: 'transfer' })
}
