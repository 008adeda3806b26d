/** Looks for a mutant in a process of its own: modules are loaded once in a process. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Filter } from '@kvx/simulator'

/** Which schedules are run. What does not look in schedules runs once, from this seed. */
export interface Hunt {
  /** First seed. */
  readonly from: number
  /** Schedules that are run in any case. */
  readonly least: number
  /** Schedules after which it counts as not found. */
  readonly most: number
  /** Which kind of them. */
  readonly among?: Filter | undefined
}

export interface Quarry {
  schedules: number
  /** Schedules with a violation. */
  found: number
  first: { seed: number; check: string; text: string } | undefined
}

/**
 * @param program of the laboratory
 * @throws Error when the process dies, or has not ended after ten minutes
 */
export async function hunt(program: string, options: Hunt): Promise<Quarry> {
  const args = [program, JSON.stringify(options)]
  const { stdout } = await promisify(execFile)(process.execPath, args, {
    timeout: 600_000,
    maxBuffer: 1 << 26,
  })
  return JSON.parse(stdout) as Quarry
}
