/** Spreads schedules over worker processes. */
import { fork, type ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { addTotals, noTotals, type Filter, type Totals } from './job.ts'
import type { Work } from './worker.ts'

/** Schedules that a worker is given at a time. */
const chunk = 400

export interface SpreadOptions {
  readonly from: number
  readonly schedules: number
  readonly filter: Filter
  readonly aimed: boolean
  readonly jobs: number
  readonly core?: string | undefined
  readonly onProgress?: (totals: Totals) => void
}

/** @throws Error when a worker process dies */
export async function spread(options: SpreadOptions): Promise<Totals> {
  const { from, schedules, filter, aimed, jobs, core, onProgress } = options
  const totals = noTotals()
  const end = from + schedules
  let next = from
  const path = fileURLToPath(new URL('./worker.js', import.meta.url))
  const workers: ChildProcess[] = []
  const one = (worker: ChildProcess) =>
    new Promise<void>((resolve, reject) => {
      const more = () => {
        if (next >= end) {
          resolve()
          return
        }
        const count = Math.min(chunk, end - next)
        worker.send({ from: next, count, filter, aimed } satisfies Work)
        next += count
      }
      worker.on('message', (part: Totals) => {
        addTotals(totals, part)
        onProgress?.(totals)
        more()
      })
      worker.on('error', reject)
      worker.on('exit', (code, signal) => {
        reject(new Error(`A worker process ended early (${String(code ?? signal)}).`))
      })
      more()
    })
  try {
    const count = Math.min(jobs, Math.ceil(schedules / chunk))
    for (let i = 0; i < count; i++) workers.push(fork(path, core === undefined ? [] : [core]))
    await Promise.all(workers.map(one))
  } finally {
    for (const worker of workers) {
      worker.removeAllListeners('exit')
      if (worker.connected) worker.disconnect()
    }
  }
  totals.violations.sort((a, b) => a.seed - b.seed)
  return totals
}
