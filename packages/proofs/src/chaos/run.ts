/** A run: rounds of faults under load, and after each round everything as it was. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Random } from '@kvx/simulator'
import { Cluster, install } from './cluster.ts'
import { describe, evidenceText } from './evidence.ts'
import { judge, type Verdict, type Window } from './judge.ts'
import { Load, type Asked } from './load.ts'
import { phases, type Phase } from './phases.ts'
import { drawPlan, everyFault, type Fault } from './plan.ts'
import { answerAlone, type Question } from './questions.ts'
import { recovery } from './recovery.ts'
import { differenceAtRest, pagesOf } from './rest.ts'
import { afterRound, lanes } from './settings.ts'
import { Striker, type Struck } from './strike.ts'
import { endSurvivors } from './survivors.ts'

export interface Options {
  readonly engines: readonly string[]
  /** In all, shared evenly between the engines. */
  readonly faults: number
  readonly seed: number
  /** Each phase is hit at least so often, if need be by more faults. */
  readonly leastPerPhase: number
  /** Requests that run all the time. Default: `lanes` of the settings. */
  readonly lanes?: number
  /** Milliseconds within which a request that a fault has hit must have its error. Default: `errorWithinMs` of the settings. */
  readonly errorWithinMs?: number
  /** For the logs of all processes. */
  readonly folder: string
  readonly progress: (line: string) => void
  /** Ends the run after the round that is going on. */
  readonly signal?: AbortSignal
}

export interface Made {
  readonly engine: string
  readonly fault: Fault
  readonly phase: Phase | undefined
}

export interface Report {
  readonly made: Made[]
  readonly verdicts: Verdict[]
  /** Milliseconds from the repair to the end of the first request that began after it and succeeded. */
  readonly recoveries: number[]
  /** One sentence each; details are in the folder. */
  readonly failures: string[]
  /** Milliseconds. */
  readonly took: number
}

/** A run gives up after so many failures: the next ones would say the same. */
const mostFailures = 5

/** Rounds after the plan, for phases that were hit too seldom. */
const mostMoreRounds = 15

export async function runChaos(options: Options): Promise<Report> {
  const begun = Date.now()
  const report: Report = { made: [], verdicts: [], recoveries: [], failures: [], took: 0 }
  // Found by it in the end: a process that outlives the run, or a child that one has left behind.
  const mark = `${String(process.pid)}-${String(begun)}`
  const env = { KVX_TOKEN: `token-${mark}`, KVX_CHAOS: mark }
  await mkdir(options.folder, { recursive: true })
  for (const engine of options.engines) install(engine)
  options.progress('asking a standalone worker every question once')
  try {
    const questions = await answerAlone(options.seed, env, options.folder)
    const share = Math.ceil(options.faults / options.engines.length)
    let runs = options.engines.map((engine, i) => {
      const count = Math.min(share, options.faults - i * share)
      return new EngineRun(engine, count, options.seed + i, options, questions, env, report)
    })
    // The engines take turns: what changes on the machine meanwhile concerns them alike.
    while (runs.length > 0) {
      const going: EngineRun[] = []
      for (const run of runs) if (await run.next()) going.push(run)
      runs = going
    }
  } finally {
    const survivors = await endSurvivors(`KVX_CHAOS=${mark}`)
    report.failures.push(...survivors.map((one) => `a process outlived the run: ${one}`))
  }
  return { ...report, took: Date.now() - begun }
}

class EngineRun {
  readonly #engine: string
  readonly #options: Options
  readonly #questions: readonly Question[]
  readonly #env: Readonly<Record<string, string>>
  readonly #report: Report
  readonly #chance: Random
  readonly #plan: Fault[][]
  /** Of the present round. */
  #number = 0
  #moreRounds = 0
  #folder = ''
  /** Undefined when a new one is needed. */
  #cluster: Cluster | undefined
  #load!: Load
  #striker!: Striker
  #atRest: readonly Record<string, number>[] = []
  #windows: Window[] = []
  /** Requests of the round with which something is wrong. */
  #wrong: Asked[] = []

  constructor(
    engine: string,
    count: number,
    seed: number,
    options: Options,
    questions: readonly Question[],
    env: Readonly<Record<string, string>>,
    report: Report,
  ) {
    this.#engine = engine
    this.#options = options
    this.#questions = questions
    this.#env = env
    this.#report = report
    this.#chance = new Random(seed)
    this.#plan = drawPlan(this.#chance, count)
  }

  /** Makes the next round. False once there is no more to do, and everything has been closed. */
  async next(): Promise<boolean> {
    const round = this.#nextRound()
    if (round === undefined) {
      await this.#cluster?.close()
      return false
    }
    if (this.#cluster === undefined) await this.#open()
    if (!(await this.#round(round))) {
      await this.#cluster?.close()
      this.#cluster = undefined
    }
    return true
  }

  #nextRound(): Fault[] | undefined {
    const { signal, leastPerPhase } = this.#options
    const { failures } = this.#report
    if (signal?.aborted === true || failures.length >= mostFailures) return undefined
    this.#number++
    const planned = this.#plan.shift()
    if (planned !== undefined) return planned
    const round = this.#missing(leastPerPhase)
    if (round.length === 0) return undefined
    if (this.#moreRounds++ < mostMoreRounds) return round
    const aims = round.map(({ aim }) => aim).join(', ')
    failures.push(`${this.#engine}: these phases were hit too seldom: ${aims}`)
    return undefined
  }

  /** Faults for the phases that have been hit too seldom. */
  #missing(least: number): Fault[] {
    const hits = (phase: Phase) =>
      this.#report.made.filter((made) => made.engine === this.#engine && made.phase === phase)
        .length
    return phases
      .filter((phase) => hits(phase) < least)
      .flatMap((aim) => {
        const fault = this.#chance.one(everyFault().filter((one) => one.aim === aim))
        const opening: Fault = { kind: 'kill', victim: 'decode', aim: 'reserved' }
        return aim === 'before hello' ? [opening, fault] : [fault]
      })
  }

  async #open(): Promise<void> {
    const name = `${this.#engine}-from-round-${String(this.#number)}`
    this.#folder = join(this.#options.folder, name)
    await mkdir(this.#folder, { recursive: true })
    const cluster = await Cluster.open(this.#chance, this.#engine, this.#env, this.#folder)
    this.#cluster = cluster
    this.#load = new Load(
      cluster.routerUrl,
      this.#questions,
      this.#chance,
      this.#options.lanes ?? lanes,
    )
    this.#striker = new Striker(cluster, this.#load, this.#chance)
    this.#atRest = await pagesOf(cluster)
  }

  /** Whether the deployment can be used for the next. */
  async #round(faults: readonly Fault[]): Promise<boolean> {
    const { progress } = this.#options
    const first = this.#load.asked.length
    const begun = Date.now()
    this.#windows = []
    this.#wrong = []
    const problems: string[] = []
    this.#load.start()
    try {
      await this.#faults(faults)
    } catch (cause) {
      problems.push(String(cause))
    }
    await this.#load.stop()
    problems.push(...this.#judgeSince(first))
    if (problems.length === 0) problems.push(...(await this.#aftermath()))
    const asked = this.#load.asked.slice(first)
    progress(
      `  round ${String(this.#number)} of ${this.#engine}: ${String(asked.length)} requests, ${((Date.now() - begun) / 1000).toFixed(1)} s${problems.length === 0 ? '' : `, ${String(problems.length)} FAILURES`}`,
    )
    if (problems.length > 0) await this.#fail(faults, problems)
    return problems.length === 0
  }

  async #faults(faults: readonly Fault[]): Promise<void> {
    let pending: Struck[] = []
    for (const [i, fault] of faults.entries()) {
      const began = Date.now()
      if (fault.aim === 'before hello') await Promise.all(pending.map((one) => one.restarting))
      const struck = await this.#striker.strike(fault)
      pending.push(struck)
      this.#windows.push(struck.window)
      this.#report.made.push({ engine: this.#engine, fault, phase: struck.phase })
      if (faults[i + 1]?.aim !== 'before hello') {
        await this.#recover(pending)
        pending = []
      }
      const line = [
        `${String(this.#report.made.length).padStart(3)}/${String(this.#options.faults)}`,
        this.#engine.padEnd(8),
        fault.kind.padEnd(16),
        fault.victim.padEnd(7),
        (struck.phase ?? `none (aimed: ${fault.aim})`).padEnd(20),
        this.#tally(began),
      ]
      this.#options.progress(line.join('  '))
    }
  }

  /** Until all processes run, and of requests that began after that one has succeeded and one was done by both. */
  async #recover(struck: readonly Struck[]): Promise<void> {
    await Promise.all(struck.map(({ repaired }) => repaired))
    const harmless = struck.every(({ window }) => window.mayAffect !== 'all')
    if (!harmless) {
      this.#report.recoveries.push(await recovery(this.#load, this.#cluster!, Date.now()))
    }
    for (const { window } of struck) window.until = Date.now()
  }

  /** How the requests ended that have ended since. */
  #tally(since: number): string {
    const counts = new Map<string, number>()
    for (const { outcome, endedAt = 0 } of this.#load.asked) {
      if (outcome === undefined || endedAt < since) continue
      const name =
        outcome.kind === 'error' ? outcome.error.code.replace('ERR_KVX_', '') : outcome.kind
      counts.set(name, (counts.get(name) ?? 0) + 1)
    }
    return [...counts].map(([name, count]) => `${name} ${String(count)}`).join(', ')
  }

  #judgeSince(first: number): string[] {
    const problems: string[] = []
    for (const asked of this.#load.asked.slice(first)) {
      const verdict = judge(asked, this.#windows, this.#options.errorWithinMs)
      this.#report.verdicts.push(verdict)
      if (verdict.kind !== 'wrong') continue
      this.#wrong.push(asked)
      problems.push(describe(asked, verdict.why))
    }
    return problems
  }

  /** What is not as it was before the round. */
  async #aftermath(): Promise<string[]> {
    try {
      const cluster = this.#cluster!
      const before = await differenceAtRest(cluster, this.#atRest)
      const first = this.#load.asked.length
      this.#windows = []
      await this.#load.askSome(afterRound)
      const problems = this.#judgeSince(first).map((problem) => `after the round: ${problem}`)
      return [...before, ...problems, ...(await differenceAtRest(cluster, this.#atRest))]
    } catch (cause) {
      return [`a worker does not tell its pages: ${String(cause)}`]
    }
  }

  async #fail(faults: readonly Fault[], problems: readonly string[]): Promise<void> {
    const { seed, progress } = this.#options
    const round = `round ${String(this.#number)}`
    const name = join(this.#folder, `failure-in-${round.replace(' ', '-')}.txt`)
    const where = `seed ${String(seed)}, engine ${this.#engine}, ${round}`
    const evidence = {
      where,
      planned: faults,
      windows: this.#windows,
      problems,
      wrong: this.#wrong,
    }
    await writeFile(name, evidenceText(evidence, this.#cluster!.started))
    for (const problem of problems.slice(0, 5)) progress(`  FAILURE: ${problem}`)
    this.#report.failures.push(
      `${this.#engine}, ${round}: ${problems[0]!}${problems.length > 1 ? ` and ${String(problems.length - 1)} more` : ''} (${name})`,
    )
  }
}
