/** A worker process: runs the ranges of seeds that it is sent, and answers with their totals. */
import type { Filter } from './job.ts'
import { useCore } from './other-core.ts'

export interface Work {
  readonly from: number
  readonly count: number
  readonly filter: Filter
}

const core = process.argv[2]
if (core) useCore(core)
const { runRange } = await import('./job.ts')

process.on('message', ({ from, count, filter }: Work) => {
  process.send?.(runRange(from, count, filter))
})
process.on('disconnect', () => process.exit(0))
