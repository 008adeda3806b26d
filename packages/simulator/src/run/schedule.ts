/** One schedule from its seed to its verdict. */
import type { FenceKind } from '@kvx/contract'
import type { Job } from '../books/legs.ts'
import { Coverage } from '../checks/coverage.ts'
import { leftover } from '../checks/end.ts'
import type { Routing } from '../hosts/hosts.ts'
import { violate, Violation } from '../machine/violation.ts'
import type { AnySlot } from '../ranks/cast.ts'
import { mostSlots } from '../shape/model.ts'
import { Random } from '../shape/random.ts'
import { drawShape, type Mode, type Shape } from '../shape/shape.ts'
import { drawActions, perform, type Action } from '../world/actions.ts'
import { World } from '../world/world.ts'

export interface ScheduleOptions {
  readonly seed: number
  /** Default: drawn. */
  readonly mode?: Mode
  readonly fence?: FenceKind
  /** Replaces the drawn actions: part of them, while a schedule is shrunk. */
  readonly actions?: readonly Action[]
  readonly coverage?: Coverage
  readonly traced?: boolean
}

export interface ScheduleResult {
  readonly seed: number
  readonly shape: Shape
  readonly actions: readonly Action[]
  readonly violation: { readonly check: string; readonly text: string } | undefined
  readonly events: number
  /** Requests by their end at decode. */
  readonly succeeded: number
  readonly failed: number
  /** Requests on healed processes that had to succeed, and did. */
  readonly healthy: number
  readonly trace: readonly string[]
}

/** Until everything must have ended for those whom faults hit no more. */
const grace = 2_300
/** Until nothing is left of anything: a long prompt over a slow engine, write after write, and the linger behind it. */
const patience = 15_000

export function runSchedule(options: ScheduleOptions): ScheduleResult {
  const { seed, coverage = new Coverage(), traced = false } = options
  const random = new Random(seed)
  const shape = drawShape(random, options)
  const drawn = drawActions(random, shape)
  const actions = options.actions ?? drawn
  const depth = Error.stackTraceLimit
  if (!traced) Error.stackTraceLimit = 0
  let world: World | undefined
  let violation: ScheduleResult['violation']
  let healthy = 0
  try {
    // The world has a generator of its own: leaving out an action does not change the shape of the rest.
    world = new World(shape, new Random(seed ^ 0x5bd1e995), { coverage, traced })
    healthy = play(world, actions)
  } catch (error) {
    violation =
      error instanceof Violation
        ? { check: error.check, text: error.message }
        : { check: 'exception', text: traced ? String((error as Error).stack) : String(error) }
  } finally {
    Error.stackTraceLimit = depth
  }
  const { succeeded = 0, failed = 0 } = world?.parts.books.totals ?? {}
  world?.context.log(() => (violation ? `VIOLATION ${violation.text}` : 'the end'))
  return {
    seed,
    shape,
    actions,
    violation,
    events: world?.context.clock.events ?? 0,
    succeeded,
    failed,
    healthy,
    trace: world?.context.trace ?? [],
  }
}

/** Returns how many requests had to succeed. */
function play(world: World, actions: readonly Action[]): number {
  const { shape, clock } = world.context
  const { cast } = world.parts
  for (const action of actions) clock.at(action.at, () => perform(world, action))
  run(world, shape.horizon)
  const healthy = shape.mode === 'liveness' ? recover(world) : []
  world.heal(cast.slots)
  const end = clock.now + patience
  let left: string | undefined = 'nothing yet'
  while (left !== undefined && clock.now < end) {
    run(world, clock.now + 100)
    left = leftover(cast)
  }
  if (left !== undefined) violate('something is left', left)
  return healthy.filter(({ receivers }) => receivers.length > 0).length
}

function run(world: World, until: number): void {
  const { context, parts } = world
  while (context.clock.step(until)) parts.books.checkPages()
}

/** The faults stop for some processes, which must then finish what concerns them alone; the others stay as they are, or worse. */
function recover(world: World): Job[] {
  const { shape, random, clock } = world.context
  const { books, cast } = world.parts
  const prefill = random.between(0, shape.prefills.length - 1)
  const decode = random.between(0, shape.decodes.length - 1)
  const chosen = (slot: AnySlot) => slot.instance === (slot.side === 'prefill' ? prefill : decode)
  const members = cast.slots.filter(chosen)
  for (const slot of cast.slots) if (!chosen(slot)) breakForGood(world, slot)
  world.heal(members)
  const healed = clock.now + patience
  // Who drains takes nothing new until its last request has ended and another process is in its place.
  while (members.some(({ process }) => process.draining) && clock.now < healed)
    run(world, clock.now + 100)
  run(world, clock.now + grace)
  for (const slot of members) slot.hitAt = -1
  const jobs = Array.from({ length: 2 }, () => healthyJob(world, prefill, decode))
  const end = clock.now + patience
  const concerned = books.jobs.filter((job) => job.prefill === prefill && job.decode === decode)
  const open = () =>
    jobs.find(({ senders, refused }) => senders.length === 0 && !refused) ??
    concerned.find(({ senders, receivers }) =>
      [...senders, ...receivers].some((leg) => !leg.settled && leg.host.alive),
    )
  do run(world, clock.now + 100)
  while (open() && clock.now < end)
  const left = open()
  if (left) violate('not ended though healed', `room ${left.room} (job ${left.id})`)
  return jobs
}

function healthyJob(world: World, prefill: number, decode: number): Job {
  const { context, parts } = world
  const { random } = context
  const { model, prefills } = context.shape
  const isDataParallel = (prefills[prefill]?.ranks[0]?.dpSize ?? 1) > 1
  const serial = context.serial()
  const tokens = random.between(1, Math.min(4, model.mostTokens))
  return parts.hosts.startJob({
    prefill,
    decode,
    dp: random.between(0, 1),
    room: BigInt(1_000_000 + serial),
    tokens,
    prompt: serial,
    prefix: random.chance(0.2) ? random.between(0, tokens) : 0,
    slots: random.between(0, mostSlots),
    late: random.chance(0.3),
    sides: 'both',
    sendAfter: random.between(0, 60),
    receiveAfter: random.between(0, 60),
    ...(isDataParallel
      ? {
          routing: random.one<Routing>(['by room', 'given', 'published']),
          prefillDp: random.between(0, 1),
        }
      : { routing: 'by room', prefillDp: 0 }),
  })
}

function breakForGood(world: World, slot: AnySlot): void {
  const { random, clock } = world.context
  const { books, cast } = world.parts
  books.hit(slot)
  switch (random.between(0, 4)) {
    case 0:
      slot.process.freeze()
      return
    case 1:
      world.crash(slot, Infinity)
      return
    case 2: {
      const flap = () => {
        if (slot.hitAt === Infinity) return
        world.crash(slot, random.between(0, 300))
        clock.after(random.between(400, 900), flap)
      }
      flap()
      world.untilHealed(Infinity, () => (slot.hitAt = Infinity))
      return
    }
    case 3:
      for (const decode of cast.decodes)
        for (const prefill of cast.prefills)
          if (decode === slot || prefill === slot) world.cut(decode, prefill, Infinity)
      return
    default:
  }
}
