/** One fault: choose the moment, do it, and set everything going again. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '@kvx/simulator'
import type { Cluster, Role } from './cluster.ts'
import type { Window } from './judge.ts'
import type { Asked, Load } from './load.ts'
import { lastChunk, recordedPhase, type LoggedEvent, type Phase } from './phases.ts'
import type { Fault } from './plan.ts'
import type { KvxProcess } from './process.ts'
import type { Question } from './questions.ts'
import { drainMs, longFreezeMs, patienceMs, shortFreezeMs } from './settings.ts'

/** A fault that was made. */
export interface Struck {
  readonly fault: Fault
  /** In which it hit the request of `room`. */
  readonly phase: Phase | undefined
  readonly room: string
  readonly window: Window
  /** Resolves when what had died is being started again, or could not be; at once when nothing had. */
  readonly restarting: Promise<void>
  /** Resolves when every process answers again. */
  readonly repaired: Promise<void>
}

/** The request at which a fault is aimed, and the moment at which it has to come. */
interface Target {
  readonly room: string
  /** When it is one of ours that has only one leg: sends the other. */
  readonly secondLeg?: () => Promise<Asked>
  readonly asked: Asked | undefined
}

export class Striker {
  readonly #cluster: Cluster
  readonly #load: Load
  readonly #random: Random
  /** Processes that have been hit once: these may end. */
  readonly #struck = new Set<KvxProcess>()

  constructor(cluster: Cluster, load: Load, random: Random) {
    this.#cluster = cluster
    this.#load = load
    this.#random = random
  }

  /** @throws Error when no request comes into the phase, or a process does not end as it has to */
  async strike(fault: Fault): Promise<Struck> {
    const { kind, victim } = fault
    const cluster = this.#cluster
    let at = 0
    let lives: Record<'prefill' | 'decode', KvxProcess> | undefined
    let spared = new Set<Asked>()
    const hit = ({ asked }: Target) => {
      lives = { prefill: cluster.process('prefill'), decode: cluster.process('decode') }
      if (kind === 'term' && victim !== 'client') spared = this.#runningAt(victim)
      if (asked?.direct && isHarmless(fault)) spared.add(asked)
      at = Date.now()
      if (victim === 'client') {
        asked?.abort.abort()
      } else {
        this.#struck.add(cluster.process(victim))
        cluster.process(victim).signal(signals[kind] ?? 'SIGKILL')
      }
    }
    const target = await this.#aim(fault, hit)
    const window: Window = {
      fault,
      from: at,
      until: Infinity,
      mayAffect: affects(fault, target.asked),
      spared,
    }
    const frozen = kind.startsWith('stop')
    // The log of a process that is dead or frozen is read to its end: it says what it did at last.
    const victimProcess = victim === 'client' ? undefined : cluster.process(victim)
    if (kind === 'kill') await victimProcess?.gone
    if (frozen) await sleep(50)
    const phase = this.#record(
      target.room,
      at,
      lives!,
      kind === 'kill' || frozen ? victim : undefined,
    )
    const restarting =
      victimProcess === undefined || victim === 'client'
        ? Promise.resolve(undefined)
        : this.#repair(fault, victim, victimProcess, at)
    const repaired = restarting.then((started) => this.#answers(started))
    // Whoever awaits it is told; when the round has failed before, nobody is.
    repaired.catch(noop)
    if (target.secondLeg && isHarmless(fault)) {
      if (kind !== 'term') await restarting.catch(noop)
      void target.secondLeg()
    }
    return {
      fault,
      phase,
      room: target.room,
      window,
      restarting: restarting.then(noop, noop),
      repaired,
    }
  }

  async #answers(started: KvxProcess | undefined): Promise<void> {
    await started?.ready.catch((cause: unknown) => {
      if (!this.#struck.has(started)) throw cause
    })
  }

  /** Calls `hit` at the moment at which a request is in the phase. */
  async #aim({ aim, victim }: Fault, hit: (target: Target) => void): Promise<Target> {
    if (aim === 'parked' && victim !== 'router') return this.#aimAtOneLeg(hit)
    const cluster = this.#cluster
    const moment = new Promise<Target>((resolve, reject) => {
      const late = setTimeout(() => {
        stop()
        reject(new Error(`no request came into the phase '${aim}'`))
      }, patienceMs)
      const stop = cluster.watch((role, event) => {
        const { room } = event
        if (room === undefined || !this.#isMoment(aim, role, event, room)) return
        const target = { room, asked: this.#askedIn(room) }
        if (victim === 'client' && target.asked === undefined) return
        stop()
        clearTimeout(late)
        hit(target)
        resolve(target)
      })
    })
    if (aim !== 'parked') return moment
    // Prefill's leg is parked as long as decode, which is frozen for that moment, cannot reserve.
    cluster.process('decode').signal('SIGSTOP')
    try {
      this.#load.askOneMore()
      return await moment
    } finally {
      cluster.process('decode').signal('SIGCONT')
    }
  }

  /** Sends decode's leg alone: its reserve is parked at prefill. */
  async #aimAtOneLeg(hit: (target: Target) => void): Promise<Target> {
    const cluster = this.#cluster
    const room = String(randomBytes(6).readUIntBE(0, 6))
    const question: Question = this.#load.idleQuestion()
    const bootstrap = {
      bootstrap_host: '127.0.0.1',
      bootstrap_port: cluster.bootstrapPort,
      bootstrap_room: Number(room),
    }
    const reserved = new Promise<void>((resolve, reject) => {
      const late = setTimeout(() => {
        stop()
        reject(new Error('a leg that was sent to decode alone did not reserve'))
      }, patienceMs)
      const stop = cluster.watch((role, event) => {
        if (role !== 'decode' || event.room !== room || event.name !== 'room.reserved') return
        stop()
        clearTimeout(late)
        hit(target)
        resolve()
      })
    })
    const { asked } = this.#load.askWorker(cluster.decodeUrl, question, question.answer, bootstrap)
    const target: Target = {
      room,
      asked,
      secondLeg: () =>
        this.#load.askWorker(cluster.prefillUrl, question, question.answer.slice(0, 1), bootstrap),
    }
    await reserved
    return target
  }

  #isMoment(aim: Phase, role: Role, event: LoggedEvent, room: string): boolean {
    const { name } = event
    switch (aim) {
      case 'before hello':
        return role === this.#younger() && name === 'request.received'
      case 'parked':
        return role === 'prefill' && name === 'request.received'
      case 'reserved':
        return role === 'prefill' && name === 'room.reserved'
      case 'between chunks':
        return role === 'prefill' && name === 'chunk.sent' && !lastChunk(this.#events(role, room))
      case 'after the last write':
        return role === 'prefill' && name === 'chunk.sent' && lastChunk(this.#events(role, room))
      case 'after complete':
        return role === 'decode' && name === 'token' && event.position === 2
    }
  }

  /** The worker that was started last: its first request makes the two greet each other. */
  #younger(): Role {
    const [prefill, decode] = [this.#cluster.process('prefill'), this.#cluster.process('decode')]
    return prefill.startedAt > decode.startedAt ? 'prefill' : 'decode'
  }

  #events(role: Role, room: string): LoggedEvent[] {
    return this.#cluster.process(role).events.filter((event) => event.room === room)
  }

  #askedIn(room: string): Asked | undefined {
    const received = (['prefill', 'decode'] as const)
      .flatMap((role) => this.#events(role, room))
      .find(({ name }) => name === 'request.received')
    return typeof received?.tokens === 'number' ? this.#load.live(received.tokens) : undefined
  }

  /** The requests that a worker works on, by its own log. A router has begun those that a worker works on. */
  #runningAt(role: Role): Set<Asked> {
    const workers = role === 'router' ? (['prefill', 'decode'] as const) : [role]
    const running = new Map<string, LoggedEvent>()
    for (const worker of workers) {
      for (const event of this.#cluster.process(worker).events) {
        const id = `${worker} ${event.request}`
        if (event.name === 'request.received') running.set(id, event)
        if (/^request\.(done|failed|cancelled)$/.test(event.name)) running.delete(id)
      }
    }
    const received = [...running.values()]
    return new Set(
      this.#load.asked.filter(
        ({ question, direct, startedAt, endedAt }) =>
          endedAt === undefined &&
          !direct &&
          // What came before it was asked is of an earlier request with the same prompt.
          received.some(
            ({ tokens, time }) => tokens === question.prompt.length && time >= startedAt,
          ),
      ),
    )
  }

  #record(
    room: string,
    at: number,
    lives: Record<'prefill' | 'decode', KvxProcess>,
    silenced: Fault['victim'] | undefined,
  ): Phase | undefined {
    const known = (role: 'prefill' | 'decode') =>
      lives[role].events.filter(({ time }) => role === silenced || time <= at)
    const [prefill, decode] = [known('prefill'), known('decode')]
    const greeted = prefill.some(
      ({ name, time }) => name === 'peer.welcomed' && time >= lives.decode.startedAt,
    )
    const ofRoom = (events: LoggedEvent[]) => events.filter((event) => event.room === room)
    return recordedPhase({ prefill: ofRoom(prefill), decode: ofRoom(decode), greeted })
  }

  /** Resolves with the new process, if there has to be one. */
  async #repair(
    fault: Fault,
    role: Role,
    old: KvxProcess,
    at: number,
  ): Promise<KvxProcess | undefined> {
    switch (fault.kind) {
      case 'abort':
        return undefined
      case 'stop, thaw early':
      case 'stop, thaw late': {
        const freeze = fault.kind === 'stop, thaw early' ? shortFreezeMs : longFreezeMs
        await sleep(at + freeze - Date.now())
        old.signal('SIGCONT')
        return undefined
      }
      case 'stop, kill':
        await sleep(this.#random.between(200, longFreezeMs))
        old.signal('SIGKILL')
        break
      case 'term': {
        const how = await Promise.race([old.gone, sleep(drainMs + endMs, 'late', { ref: false })])
        if (how !== 'exit code 0') {
          throw new Error(
            how === 'late'
              ? `${old.name} has not ended ${String(drainMs + endMs)} ms after SIGTERM`
              : `${old.name} ended with ${how} after SIGTERM`,
          )
        }
        break
      }
      case 'kill':
        break
    }
    await old.gone
    return this.#cluster.start(role)
  }
}

const signals: Readonly<Partial<Record<Fault['kind'], NodeJS.Signals>>> = {
  kill: 'SIGKILL',
  term: 'SIGTERM',
  'stop, thaw early': 'SIGSTOP',
  'stop, thaw late': 'SIGSTOP',
  'stop, kill': 'SIGSTOP',
}

/** Whether a request that waits in decode for its other leg is to go on as if nothing had been. */
const isHarmless = ({ kind, victim }: Fault) =>
  kind === 'stop, thaw early' || (kind === 'term' && victim === 'decode')

/** Milliseconds that a process which has answered everything takes to end. */
const endMs = 10_000

const noop = () => undefined

/** A short freeze affects nobody, a client that leaves only itself. */
function affects({ kind }: Fault, asked: Asked | undefined): Window['mayAffect'] {
  if (kind === 'stop, thaw early') return new Set()
  if (kind === 'abort') return new Set(asked ? [asked] : [])
  return 'all'
}
