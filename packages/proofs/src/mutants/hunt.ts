/** Looks for a mutant in schedules. */
import type { Filter } from '@kvx/simulator'
import { answerOf } from './program.ts'

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
 * @throws Error as `answerOf`
 */
export function hunt(program: string, options: Hunt): Promise<Quarry> {
  return answerOf<Quarry>(program, options)
}
