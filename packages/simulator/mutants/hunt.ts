/** Looks for a mutant with the simulator, in a process of its own: modules are loaded once in a process. */
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { promisify } from 'node:util'

export interface Hunt {
  /** Folder of the mutant's build. */
  readonly core: string
  /** First seed. */
  readonly from: number
  /** Schedules that are run in any case. */
  readonly least: number
  /** Schedules after which it counts as not found. */
  readonly most: number
}

export interface Quarry {
  schedules: number
  /** Schedules with a violation. */
  found: number
  first: { seed: number; check: string; text: string } | undefined
}

/** The built one, also when this file runs from its source. */
const child = join(
  createRequire(import.meta.url).resolve('@kvx/simulator/package.json'),
  '../mutants/dist/child.js',
)

/** @throws Error when the process dies, or has not ended after ten minutes */
export async function hunt(options: Hunt): Promise<Quarry> {
  const { stdout } = await promisify(execFile)(process.execPath, [child, JSON.stringify(options)], {
    timeout: 600_000,
    maxBuffer: 1 << 26,
  })
  return JSON.parse(stdout) as Quarry
}
