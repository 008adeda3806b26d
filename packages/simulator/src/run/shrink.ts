/** Delta debugging: the fewest actions with which the same check still fails. */
import type { Action } from '../world/actions.ts'
import { runSchedule, type ScheduleOptions, type ScheduleResult } from './schedule.ts'

/** Schedules that are tried at most. */
const tries = 400

/** A traced schedule that fails the same check as `failing`, with as few of its actions as could be found. */
export function shrink(failing: ScheduleResult, options: ScheduleOptions): ScheduleResult {
  const check = failing.violation?.check
  let left = tries
  const fails = (actions: readonly Action[]) => {
    left--
    return runSchedule({ ...options, actions, traced: false }).violation?.check === check
  }
  let actions = failing.actions
  let parts = 2
  while (actions.length > 0 && left > 0) {
    const size = Math.ceil(actions.length / parts)
    let smaller: readonly Action[] | undefined
    for (let start = 0; start < actions.length && left > 0; start += size) {
      const rest = [...actions.slice(0, start), ...actions.slice(start + size)]
      if (!fails(rest)) continue
      smaller = rest
      break
    }
    if (smaller) {
      actions = smaller
      parts = Math.max(2, parts - 1)
    } else if (size === 1) {
      break
    } else {
      parts = Math.min(actions.length, parts * 2)
    }
  }
  return runSchedule({ ...options, actions, traced: true })
}
