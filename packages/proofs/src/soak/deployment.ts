/** Two prefill and two decode workers over one engine, of which one each is never killed; requests between them, and faults. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { silentLog } from '@kvx/contract'
import { BootstrapServer } from '@kvx/core'
import type { Random } from '@kvx/simulator'
import { errorWithin } from '../chaos/settings.ts'
import { drawFault, isHarmless, strike, type Kind, type Window } from './faults.ts'
import { judge, lost, type Asked, type Verdict } from './judge.ts'
import { Worker } from './life.ts'
import {
  abortShare,
  abortWithinMs,
  atOnce,
  fewestTokens,
  lostAfter,
  mostTokens,
  recoveryMs,
  type SoakDeadlines,
} from './settings.ts'
import type { End, Job } from './worker.ts'

export interface Counts {
  requests: number
  ok: number
  /** Ended as they should, because they were. */
  aborted: number
  /** By the code of the error. */
  readonly affected: Record<string, number>
  wrong: number
  lost: number
  /** That arrived and are right. */
  bytes: number
  readonly faults: Record<Kind, number>
  /** Milliseconds until everything worked again, of the slowest. */
  slowestRecoveryMs: number
  /** Milliseconds from a fault to the error of a request, of the slowest. */
  slowestErrorMs: number
}

export interface DeploymentOptions {
  readonly engine: string
  readonly env: Readonly<Record<string, string>>
  readonly token: string
  /** Two, so that requests do not change which faults are drawn. */
  readonly random: { readonly load: Random; readonly faults: Random }
  readonly deadlines: SoakDeadlines
  /** Requests a second. */
  readonly rate: number
  /** Milliseconds between faults, on the average. */
  readonly faultEveryMs: number
  readonly kinds: readonly Kind[]
  readonly onFailure: (text: string) => void
}

const noop = () => undefined

/** Faults that are over explain nothing after that long. */
const memoryMs = 30 * 60_000

export class Deployment {
  readonly engine: string
  readonly workers: readonly Worker[]
  readonly counts: Counts = {
    ...{ requests: 0, ok: 0, aborted: 0, affected: {}, wrong: 0, lost: 0, bytes: 0 },
    faults: { kill: 0, 'freeze, short': 0, 'freeze, long': 0, cut: 0 },
    ...{ slowestRecoveryMs: 0, slowestErrorMs: 0 },
  }
  readonly #options: DeploymentOptions
  readonly #services: readonly BootstrapServer[]
  readonly #live = new Set<Promise<boolean>>()
  #windows: Window[] = []

  private constructor(
    options: DeploymentOptions,
    services: readonly BootstrapServer[],
    workers: readonly Worker[],
  ) {
    this.engine = options.engine
    this.#options = options
    this.#services = services
    this.workers = workers
  }

  /** @throws Error when a worker does not open */
  static async open(options: DeploymentOptions): Promise<Deployment> {
    const { engine: backend, token, env, deadlines } = options
    const services: BootstrapServer[] = []
    const workers: Worker[] = []
    for (const number of [1, 2]) {
      const service = await BootstrapServer.open({
        ...{ host: '127.0.0.1', port: 0, token, log: silentLog },
      })
      services.push(service)
      for (const role of ['prefill', 'decode'] as const) {
        const instance = `${role}-${String(number)}`
        const { address: bootstrap } = service
        const own = { role, backend, instance, bootstrap, token, deadlines }
        workers.push(new Worker(own, number === 1, env))
      }
    }
    const deployment = new Deployment(options, services, workers)
    try {
      await Promise.all(workers.map((worker) => worker.start()))
    } catch (cause) {
      await deployment.kill()
      throw cause
    }
    return deployment
  }

  /** Requests that arrive at random, until the signal; resolves when the last one has ended. */
  async load(signal: AbortSignal): Promise<void> {
    const { rate } = this.#options
    const random = this.#options.random.load
    for (;;) {
      const pause = (-Math.log(1 - random.next()) / rate) * 1_000
      await sleep(pause, undefined, { signal }).catch(noop)
      if (signal.aborted) break
      if (this.#live.size < atOnce) void this.#begin()
    }
    await Promise.all(this.#live)
  }

  /** One fault after another, until the signal or until one is not recovered from. */
  async faults(signal: AbortSignal): Promise<void> {
    const { faultEveryMs, kinds, deadlines, onFailure } = this.#options
    const random = this.#options.random.faults
    for (;;) {
      await sleep(faultEveryMs * (0.5 + random.next()), undefined, { signal }).catch(noop)
      if (signal.aborted) return
      const { kind, victim } = drawFault(random, this.workers, kinds)
      const window: Window = {
        ...{ kind, victim: victim.options.instance, from: Date.now(), until: Infinity },
      }
      this.#windows = this.#windows.filter(({ until }) => until > Date.now() - memoryMs)
      this.#windows.push(window)
      this.counts.faults[kind]++
      try {
        await strike(kind, victim, deadlines)
        const repaired = Date.now()
        if (!isHarmless(kind)) await this.#recover()
        const took = Date.now() - repaired
        this.counts.slowestRecoveryMs = Math.max(this.counts.slowestRecoveryMs, took)
      } catch (cause) {
        onFailure(
          `${this.engine}: after ${kind} of ${victim.options.instance}: ${(cause as Error).message}`,
        )
        return
      }
      window.until = Date.now()
    }
  }

  /**
   * Resolves when no worker has a page in quarantine and every prefill worker has sent to every decode worker.
   * @throws Error when that takes too long
   */
  async #recover(): Promise<void> {
    const end = Date.now() + recoveryMs
    await this.#waitForPages(end, ({ quarantined }) => quarantined)
    for (const prefill of this.#of('prefill')) {
      for (const decode of this.#of('decode')) {
        while (!(await this.#begin({ prefill, decode }))) {
          if (Date.now() > end)
            throw new Error(
              `no request from ${prefill.options.instance} to ${decode.options.instance} succeeds`,
            )
          await sleep(100)
        }
      }
    }
  }

  async #waitForPages(
    end: number,
    count: (gauge: { leased: number; quarantined: number }) => number,
  ): Promise<void> {
    for (const worker of this.workers) {
      for (;;) {
        const gauge = await worker.gauge(5_000)
        if (gauge && count(gauge) === 0) break
        if (Date.now() > end) {
          const { instance } = worker.options
          throw new Error(
            gauge === undefined
              ? `${instance} tells no gauges`
              : `${instance} has ${String(gauge.leased)} pages leased and ${String(gauge.quarantined)} in quarantine`,
          )
        }
        await sleep(200)
      }
    }
  }

  /** @throws Error when a page does not come back without load */
  atRest(): Promise<void> {
    return this.#waitForPages(
      Date.now() + recoveryMs,
      ({ leased, quarantined }) => leased + quarantined,
    )
  }

  /** Ends every worker in order, decode first: prefill tells it of nothing any more. */
  async close(): Promise<void> {
    for (const role of ['decode', 'prefill'] as const) {
      await Promise.all(this.#of(role).map((worker) => worker.close()))
    }
  }

  async kill(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.kill()))
    await Promise.all(this.#services.map((service) => service.close()))
  }

  #of(role: 'prefill' | 'decode'): readonly Worker[] {
    return this.workers.filter(({ options }) => options.role === role)
  }

  /** Whether it has succeeded. */
  #begin(pair?: { prefill: Worker; decode: Worker }): Promise<boolean> {
    const ended = this.#ask(pair).finally(() => {
      this.#live.delete(ended)
    })
    this.#live.add(ended)
    return ended
  }

  async #ask(pair?: { prefill: Worker; decode: Worker }): Promise<boolean> {
    const { deadlines, onFailure } = this.#options
    const random = this.#options.random.load
    const { counts } = this
    const number = ++counts.requests
    const prefill = pair?.prefill ?? random.one(this.#of('prefill'))
    const decode = pair?.decode ?? random.one(this.#of('decode'))
    const job: Job = {
      room: String(randomBytes(6).readUIntBE(0, 6)),
      seed: Math.floor(random.next() * 2 ** 31),
      tokens: random.between(fewestTokens, mostTokens),
      from: prefill.options.bootstrap,
    }
    const isAborted = pair === undefined && random.chance(abortShare)
    const startedAt = Date.now()
    const late = new AbortController()
    const limited = (leg: Promise<End>) =>
      Promise.race([
        leg,
        sleep(lostAfter(deadlines), lost, { ref: false, signal: late.signal }).catch(() => lost),
      ])
    const legs = Promise.all([limited(prefill.serve(job)), limited(decode.serve(job))])
    if (isAborted) {
      const by = random.chance(0.5) ? prefill : decode
      setTimeout(
        () => {
          by.abort(job.room)
        },
        random.between(0, abortWithinMs),
      )
    }
    const [sent, received] = await legs
    late.abort()
    const asked: Asked = {
      ...{ number, startedAt, isAborted, endedAt: Date.now() },
      ...{ prefill: prefill.options.instance, decode: decode.options.instance },
      ends: { prefill: sent, decode: received },
    }
    const verdict = judge(asked, this.#windows, errorWithin(deadlines))
    this.#count(verdict, received)
    if ('why' in verdict) {
      const who = `request ${String(number)} from ${asked.prefill} to ${asked.decode}`
      onFailure(
        `${this.engine}: ${who}, ${new Date(startedAt).toISOString()} to ${new Date(asked.endedAt).toISOString()}: ${verdict.why}`,
      )
    }
    return verdict.kind === 'ok'
  }

  #count(verdict: Verdict, received: End): void {
    const { counts } = this
    if (verdict.kind === 'affected') {
      counts.affected[verdict.code] = (counts.affected[verdict.code] ?? 0) + 1
      counts.slowestErrorMs = Math.max(counts.slowestErrorMs, verdict.ms)
    } else {
      counts[verdict.kind]++
    }
    if (verdict.kind === 'ok') counts.bytes += received.bytes ?? 0
  }
}
