/** A worker process: runs the ranges of seeds that it is sent, and answers with their totals. */
import type { Filter } from './job.ts'
import { useCore } from './other-core.ts'

export interface Work {
  readonly from: number
  readonly count: number
  readonly filter: Filter
  /** Guided by what this process has seen. */
  readonly aimed: boolean
}

const core = process.argv[2]
if (core) useCore(core)
const { runRange } = await import('./job.ts')
const { Aim } = await import('./aim.ts')
let aim: InstanceType<typeof Aim> | undefined

process.on('message', ({ from, count, filter, aimed }: Work) => {
  if (aimed) aim ??= new Aim(filter)
  process.send?.(aim ? aim.run(from, count) : runRange(from, count, filter))
})
process.on('disconnect', () => process.exit(0))
