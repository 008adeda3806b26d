/** Load, faults and aborts together, for as long as is asked for; and what is left behind. */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '@kvx/simulator'
import { install } from '../chaos/cluster.ts'
import { endSurvivors } from '../chaos/survivors.ts'
import { Deployment, type Counts } from './deployment.ts'
import { cutObjection, isHarmless, kinds } from './faults.ts'
import { sampleOf, slopesOf, type Sample, type Slope } from './samples.ts'
import { soakDeadlines, type SoakDeadlines } from './settings.ts'

export const engines = ['shm', 'mooncake', 'mori'] as const

export interface SoakOptions {
  readonly engines: readonly string[]
  /** Of load and faults. */
  readonly ms: number
  readonly seed: number
  /** Requests a second, of each engine. */
  readonly rate: number
  /** Milliseconds between the faults of an engine, on the average. */
  readonly faultEveryMs: number
  readonly sampleEveryMs: number
  /** Default: those of the settings. */
  readonly deadlines?: SoakDeadlines
  readonly progress: (line: string) => void
  /** Given each minute, and at the end. */
  readonly onReport?: (report: SoakReport) => void
  /** Ends load and faults early. */
  readonly signal?: AbortSignal
}

export interface SoakReport {
  readonly seed: number
  /** Of load and faults. */
  readonly seconds: number
  readonly isOver: boolean
  /** Why connections were not cut. */
  readonly notCut?: string
  readonly engines: Readonly<Record<string, Counts>>
  readonly slopes: readonly Slope[]
  readonly samples: readonly Sample[]
  /** One sentence each. */
  readonly failures: readonly string[]
}

/** @throws Error when a worker does not open */
export async function runSoak(options: SoakOptions): Promise<SoakReport> {
  const { deadlines = soakDeadlines, rate, faultEveryMs, progress } = options
  const mark = `${String(process.pid)}-${String(Date.now())}`
  const samples: Sample[] = []
  const failures: string[] = []
  const deployments: Deployment[] = []
  const notCut = await cutObjection()
  if (notCut !== undefined) progress(`connections are not cut: ${notCut}`)
  for (const engine of options.engines) install(engine)
  const over = new AbortController()
  let began = Date.now()
  let seconds = 0
  const reportNow = (isOver: boolean): SoakReport => {
    const passed = isOver ? seconds : (Date.now() - began) / 1_000
    const kept = deployments.flatMap(({ engine, workers, counts }) => {
      const faults = kinds.reduce(
        (sum, kind) => sum + (isHarmless(kind) ? 0 : counts.faults[kind]),
        0,
      )
      const faultsAnHour = (faults / passed) * 3_600
      return workers.filter(isKept).map(({ name: worker }) => ({ worker, engine, faultsAnHour }))
    })
    return {
      ...{ seed: options.seed, isOver, samples, failures, seconds: passed },
      ...(notCut !== undefined && { notCut }),
      engines: Object.fromEntries(deployments.map(({ engine, counts }) => [engine, counts])),
      slopes: slopesOf(samples, kept),
    }
  }
  try {
    for (const [i, engine] of options.engines.entries()) {
      deployments.push(
        await Deployment.open({
          ...{ engine, rate, faultEveryMs, deadlines, token: randomBytes(32).toString('hex') },
          env: { KVX_SOAK: mark, ...(engine === 'mori' && fakeVerbs()) },
          random: { load: new Random(options.seed + i), faults: new Random(options.seed - i) },
          kinds: kinds.filter((kind) => kind !== 'cut' || notCut === undefined),
          onFailure: (text) => {
            failures.push(text)
            progress(`FAILURE: ${text}`)
          },
        }),
      )
    }
    began = Date.now()
    const end = () => {
      over.abort()
    }
    options.signal?.addEventListener('abort', end, { once: true })
    if (options.signal?.aborted === true) end()
    const timer = setTimeout(end, options.ms)
    await Promise.all([
      ...deployments.flatMap((one) => [one.load(over.signal), one.faults(over.signal)]),
      watch(deployments, samples, { began, every: options.sampleEveryMs, signal: over.signal }),
      tell(() => {
        options.onReport?.(reportNow(false))
        for (const line of linesOf(deployments, (Date.now() - began) / 60_000)) progress(line)
      }, over.signal),
    ])
    clearTimeout(timer)
    options.signal?.removeEventListener('abort', end)
    seconds = (Date.now() - began) / 1_000
    progress('the load is over: every page must come back, and every worker must end')
    for (const deployment of deployments) {
      try {
        await deployment.atRest()
        await deployment.close()
      } catch (cause) {
        failures.push(`${deployment.engine}: at the end ${(cause as Error).message}`)
      }
    }
    for (const { workers } of deployments)
      for (const worker of workers) failures.push(...worker.failures)
  } finally {
    over.abort()
    await Promise.all(deployments.map((deployment) => deployment.kill()))
    const survivors = await endSurvivors(`KVX_SOAK=${mark}`)
    failures.push(...survivors.map((one) => `a process outlived the run: ${one}`))
  }
  const report = reportNow(true)
  failures.push(
    ...report.slopes
      .filter(({ isGrowing }) => isGrowing)
      .map(({ worker, what }) => `${worker}: ${what} grow`),
  )
  options.onReport?.(report)
  return report
}

const isKept = (worker: { readonly isKept: boolean }) => worker.isKept

async function watch(
  deployments: readonly Deployment[],
  samples: Sample[],
  { began, every, signal }: { began: number; every: number; signal: AbortSignal },
): Promise<void> {
  while (!signal.aborted) {
    const kept = deployments.flatMap(({ workers }) => workers.filter(isKept))
    const seconds = (Date.now() - began) / 1_000
    const taken = await Promise.all(kept.map((worker) => sampleOf(worker, seconds)))
    samples.push(...taken.filter((one) => one !== undefined))
    await sleep(every, undefined, { signal }).catch(() => undefined)
  }
}

/** Each minute. */
async function tell(now: () => void, signal: AbortSignal): Promise<void> {
  for (;;) {
    await sleep(60_000, undefined, { signal }).catch(() => undefined)
    if (signal.aborted) return
    now()
  }
}

function linesOf(deployments: readonly Deployment[], minutes: number): string[] {
  return deployments.map(({ engine, counts }) => {
    const { requests, ok, aborted, affected, wrong, lost, faults, bytes } = counts
    const sum = (record: Readonly<Record<string, number>>) =>
      Object.values(record).reduce((a, b) => a + b, 0)
    return `${minutes.toFixed(1).padStart(6)} min  ${engine.padEnd(8)}  requests ${String(requests)}, ok ${String(ok)}, aborted ${String(aborted)}, affected ${String(sum(affected))}, wrong ${String(wrong)}, lost ${String(lost)}; faults ${String(sum(faults))}; ${(bytes / 1e9).toFixed(2)} GB right`
  })
}

/** Real MORI on a libibverbs that stands in for kernel and device. */
function fakeVerbs(): Record<string, string> {
  const folder = dirname(createRequire(import.meta.url).resolve('@kvx/mori/package.json'))
  const build = join(folder, 'test/fake-verbs/build.mjs')
  const library = execFileSync(process.execPath, [build], { encoding: 'utf8' }).trim()
  return {
    KVX_MORI_VERBS: 'fake',
    KVX_MORI_FAKE_VERBS: library,
    // MORI asks for completions in a loop: several workers would take all cores for that.
    KVX_FAKE_VERBS_IDLE_US: '500',
  }
}
