/** What long-lived workers hold over time, and whether it grows. */
import { readdir, readFile } from 'node:fs/promises'
import type { Worker } from './life.ts'
import { bounds, leastSpanMs, perFault, warmUpShare, type Measured } from './settings.ts'

export interface Sample extends Readonly<Record<Measured, number>> {
  readonly worker: string
  /** Since the run began. */
  readonly seconds: number
  readonly 'leased pages': number
}

/** Milliseconds for the gauges; a frozen worker tells none. */
const gaugeMs = 5_000

/** @returns undefined when the worker is frozen or gone */
export async function sampleOf(worker: Worker, seconds: number): Promise<Sample | undefined> {
  const { pid } = worker
  const gauge = await worker.gauge(gaugeMs)
  if (gauge === undefined || pid === undefined) return undefined
  try {
    const status = await readFile(`/proc/${String(pid)}/status`, 'utf8')
    const number = (name: string) =>
      Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1])
    return {
      worker: worker.name,
      seconds,
      // Of the process alone: its cache, which peers write to, is there from the beginning.
      'resident bytes': number('RssAnon') * 1_024,
      'heap bytes': gauge.heapBytes,
      descriptors: (await readdir(`/proc/${String(pid)}/fd`)).length,
      threads: number('Threads'),
      'quarantined pages': gauge.quarantined,
      'leased pages': gauge.leased,
    }
  } catch {
    return undefined
  }
}

export interface Slope {
  readonly worker: string
  readonly what: Measured
  readonly first: number
  readonly last: number
  readonly most: number
  /** After warm-up, by least squares. */
  readonly perHour: number
  readonly error: number
  readonly bound: number
  /** Absent: there was too little time. */
  readonly isGrowing?: boolean
}

/** A worker that lives as long as the run. */
export interface Kept {
  readonly worker: string
  readonly engine: string
  /** Those that end links. */
  readonly faultsAnHour: number
}

export function slopesOf(samples: readonly Sample[], kept: readonly Kept[]): Slope[] {
  return kept.flatMap(({ worker, engine, faultsAnHour }) => {
    const own = samples.filter((one) => one.worker === worker)
    const warm = own.slice(Math.floor(own.length * warmUpShare))
    const span = ((warm.at(-1)?.seconds ?? 0) - (warm[0]?.seconds ?? 0)) * 1_000
    return (Object.keys(bounds) as Measured[]).map((what): Slope => {
      const { slope, error } = fit(warm.map((one) => [one.seconds / 3_600, one[what]]))
      const values = warm.map((one) => one[what])
      const bound = bounds[what] + (perFault[engine]?.[what] ?? 0) * faultsAnHour
      return {
        ...{ worker, what, perHour: slope, error, bound },
        ...{ first: values[0] ?? 0, last: values.at(-1) ?? 0, most: Math.max(0, ...values) },
        ...(span >= leastSpanMs && { isGrowing: slope - 3 * error > bound }),
      }
    })
  })
}

/** Least squares: by how much y grows for each x, and the standard error of that. */
export function fit(points: readonly (readonly [x: number, y: number])[]): {
  slope: number
  error: number
} {
  const n = points.length
  const mean = (of: (point: readonly [number, number]) => number) =>
    points.reduce((sum, point) => sum + of(point), 0) / n
  const [x, y] = [mean(([at]) => at), mean(([, value]) => value)]
  const spread = points.reduce((sum, [at]) => sum + (at - x) ** 2, 0)
  if (n < 3 || spread === 0) return { slope: 0, error: 0 }
  const slope = points.reduce((sum, [at, value]) => sum + (at - x) * (value - y), 0) / spread
  const left = points.reduce((sum, [at, value]) => sum + (value - y - slope * (at - x)) ** 2, 0)
  return { slope, error: Math.sqrt(left / (n - 2) / spread) }
}
