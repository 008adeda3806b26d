/**
 * What happens to a world from outside: requests, aborts and faults. All are drawn before the schedule
 * runs, each with a seed of its own, so that a part of the list can be replayed alone.
 */
import { occupier } from '../books/pages.ts'
import type { Routing } from '../hosts/hosts.ts'
import type { Fate } from '../machine/process.ts'
import type { AnyRank, AnySlot } from '../ranks/cast.ts'
import { fault } from '../shape/faults.ts'
import { mostSlots } from '../shape/model.ts'
import { Random } from '../shape/random.ts'
import type { Shape } from '../shape/shape.ts'
import type { World } from './world.ts'

export type ActionKind = keyof typeof kinds

export interface Action {
  readonly at: number
  readonly kind: ActionKind
  readonly seed: number
}

/** How often each kind is drawn, where a schedule has it at all. */
const kinds = {
  request: 0,
  'abort of prefill': 3,
  'abort of decode': 3,
  crash: 4,
  'crash of an instance': 1,
  drain: 1,
  freeze: 4,
  'lost connection': 5,
  partition: 3,
  'slow process': 1,
  'write fails': 5,
  'connect fails': 1,
  'reopen fails': 1,
  'bootstrap unreachable': 2,
  'bootstrap restarts': 1,
  'full pool': 2,
  'wrong manifest': 1,
  'flipped byte': 1,
} as const

export function drawActions(random: Random, shape: Shape): Action[] {
  const actions: Action[] = []
  const add = (at: number, kind: ActionKind) => {
    actions.push({ at, kind, seed: Math.floor(random.next() * 2 ** 32) })
  }
  const requests = random.between(1, shape.limits.requests < 4 ? 7 : 5)
  const burst = random.chance(0.3)
  for (let i = 0; i < requests; i++)
    add(burst ? random.between(100, 200) : random.between(20, shape.horizon), 'request')
  // Few kinds of faults at a time, in other schedules other ones: rare combinations become frequent.
  const names = Object.keys(kinds).slice(1) as ActionKind[]
  const enabled = names.filter(() => random.chance(0.35))
  const total = enabled.reduce((sum, kind) => sum + kinds[kind], 0)
  const faults = total === 0 ? 0 : random.between(0, 8)
  for (let i = 0; i < faults; i++) {
    let left = random.next() * total
    const kind = enabled.find((name) => (left -= kinds[name]) < 0)
    if (kind) add(random.between(60, shape.horizon), kind)
  }
  return actions.sort((a, b) => a.at - b.at)
}

export function perform(world: World, action: Action): void {
  const { context, parts } = world
  const { books, cast, network } = parts
  const random = new Random(action.seed)
  const slot = random.one(cast.slots)
  switch (action.kind) {
    case 'request':
      request(world, random)
      return
    case 'abort of prefill':
      abortOne(
        random,
        cast.prefills.map(({ process }) => process),
      )
      return
    case 'abort of decode':
      abortOne(
        random,
        cast.decodes.map(({ process }) => process),
      )
      return
    case 'crash':
      world.crash(slot, random.chance(0.2) ? Infinity : random.between(0, 500))
      return
    case 'crash of an instance': {
      const slots: readonly AnySlot[] =
        slot.process.side === 'prefill' ? cast.prefills : cast.decodes
      for (const other of slots)
        if (other.instance === slot.instance) world.crash(other, random.between(0, 400))
      return
    }
    case 'drain':
      drain(world, slot)
      return
    case 'freeze': {
      const { process } = slot
      books.hit(slot)
      process.freeze()
      const ms = random.chance(0.3)
        ? Infinity
        : random.chance(0.5)
          ? random.between(5, 150)
          : random.between(150, 1_500)
      if (ms < Infinity) context.clock.after(ms, () => process.thaw())
      return
    }
    case 'lost connection': {
      const wire = random.one([...network.wires.values(), undefined])
      if (!wire) return
      books.hit(wire.decode.slot)
      books.hit(wire.prefill.slot)
      wire.end('network')
      return
    }
    case 'partition': {
      const prefill = random.one(cast.prefills)
      const decode = random.one(cast.decodes)
      const alone = random.chance(0.5) ? [decode] : cast.decodes
      const ms = random.chance(0.2) ? Infinity : random.between(20, 1_400)
      for (const other of alone) world.cut(other, prefill, ms)
      return
    }
    case 'slow process':
      books.hit(slot)
      slot.slowness = random.between(2, 3)
      slot.mask |= fault.freeze
      context.log(() => `${slot.name} becomes slow`)
      context.clock.after(random.between(100, 1_200), () => (slot.slowness = 1))
      return
    case 'write fails': {
      const fates: Fate[] = [
        'fails before',
        'fails during',
        'fails during',
        'fails after',
        'completion lost',
        'never settles',
      ]
      const fate = random.one(fates)
      const armed = random.one(cast.prefills)
      books.hit(armed)
      armed.armed.fates.push(fate)
      context.log(
        () =>
          `the next write of ${armed.name} ${fate === 'completion lost' ? 'loses its completion' : fate}`,
      )
      return
    }
    case 'connect fails': {
      const armed = random.one(cast.prefills)
      books.hit(armed)
      armed.armed.failingConnects++
      return
    }
    case 'reopen fails':
      books.hit(slot)
      slot.armed.failingReopens++
      return
    case 'bootstrap unreachable':
      world.loseBootstrap(
        random.between(0, context.shape.prefills.length - 1),
        random.between(50, 1_000),
      )
      return
    case 'bootstrap restarts':
      world.restartBootstrap(random.between(0, context.shape.prefills.length - 1))
      return
    case 'full pool': {
      const { process } = slot
      const book = random.one([...process.books.values()])
      const lease = book.take(random.between(1, Math.max(1, book.pool.counts().free)), occupier)
      if (!lease) return
      const pages = lease.pages.slice()
      context.log(() => `${process.name}: others take ${pages.length} pages`)
      const end = () => {
        book.disown(pages)
        lease.release()
      }
      world.untilHealed(random.between(50, 1_500), end)
      return
    }
    case 'wrong manifest': {
      const armed = random.one(cast.prefills)
      books.hit(armed)
      armed.armed.wrongManifests++
      return
    }
    case 'flipped byte': {
      const armed = random.one(cast.prefills)
      books.hit(armed)
      armed.armed.flippedBytes++
    }
  }
}

/** SIGTERM: no new requests, the running ones end, then the process exits; another takes its place. */
function drain(world: World, slot: AnySlot): void {
  const { context, parts } = world
  const { process } = slot
  if (process.draining || !process.alive) return
  parts.books.hit(slot)
  context.log(() => `${process.name} drains`)
  process.act(() => {
    process.draining = true
    if (process.side === 'prefill') process.step({ type: 'host.drain' })
  })
  const wait = () =>
    context.clock.after(50, () => {
      if (!process.alive) return
      if (process.draining && !process.frozen && process.legs.size === 0) world.crash(slot, 0)
      else wait()
    })
  wait()
}

/** A request of the router, perhaps with one leg only, or with a room that is in use. */
function request(world: World, random: Random): void {
  const { context, parts } = world
  const { model, limits, prefills, decodes } = context.shape
  const burst = limits.requests < 4 && random.chance(0.3) ? random.between(2, 5) : 1
  for (let i = 0; i < burst; i++) {
    const tokens = random.between(1, model.mostTokens)
    const serial = context.serial()
    const lag = () => (random.chance(0.6) ? random.between(0, 20) : random.between(20, 700))
    parts.hosts.startJob({
      prefill: random.between(0, prefills.length - 1),
      decode: random.between(0, decodes.length - 1),
      dp: random.between(0, 1),
      // Few rooms, so that they are used again, also while they live.
      room: BigInt(random.chance(0.4) ? random.between(1, 3) : 100 + serial),
      tokens,
      prompt: serial,
      prefix: random.chance(0.3) ? random.between(0, tokens) : 0,
      slots: random.chance(0.2) ? 0 : random.between(1, mostSlots),
      late: random.chance(0.3),
      sides: random.chance(0.9) ? 'both' : random.one(['prefill', 'decode'] as const),
      sendAfter: lag(),
      receiveAfter: lag(),
      ...drawRouting(random),
    })
  }
}

/** Drawn last, so that schedules without data parallelism stay what they were. */
export function drawRouting(random: Random): { routing: Routing; prefillDp: number } {
  const routing = random.one<Routing>(['by room', 'by room', 'given', 'published', 'published'])
  return {
    routing: random.chance(0.05) ? 'disagreeing' : routing,
    prefillDp: random.between(0, 1),
  }
}

function abortOne(random: Random, processes: readonly AnyRank[]): void {
  const legs = processes.flatMap(({ legs: all }) => [...all.values()])
  const leg = random.pick(legs)
  leg?.host.act(() => {
    leg.abort('not wanted any more')
  })
}
