/** What a run has found, for a person. */
import { coverageTable } from './table.ts'
import { quantile, type Filter, type Totals } from './job.ts'
import type { Action } from '../world/actions.ts'
import { replay } from './args.ts'
import { runSchedule, type ScheduleResult } from './schedule.ts'
import { shrink } from './shrink.ts'

const number = new Intl.NumberFormat('en')
const say = (value: number) => number.format(value)

export function summary(totals: Totals, seconds: number): string {
  const { schedules, events, succeeded, failed, healthy, byCheck } = totals
  const violations = Object.values(byCheck).reduce((sum, count) => sum + count, 0)
  return [
    `${say(schedules)} schedules in ${seconds.toFixed(0)} s, ${say(violations)} with a violation`,
    `${say(events)} events; per schedule ${say(quantile(totals, 0.5))} (median), ${say(quantile(totals, 0.99))} (99th percentile)`,
    `requests: ${say(succeeded)} succeeded, ${say(failed)} failed; ${say(healthy)} on healed processes, which had to succeed`,
    ...Object.entries(byCheck)
      .sort(([, a], [, b]) => b - a)
      .map(([check, count]) => `  ${say(count)} × ${check}`),
  ].join('\n')
}

/**
 * The violation of one seed: shrunk, traced, and how to see it again.
 *
 * @param actions where they are not those that the seed draws
 */
export function violationReport(seed: number, filter: Filter, actions?: readonly Action[]): string {
  const options = { ...filter, seed }
  const failing = runSchedule({ ...options, ...(actions && { actions }) })
  if (!failing.violation) return `seed ${seed}: no violation`
  const small = shrink(failing, options)
  return [
    `seed ${seed}: ${failing.violation.text}`,
    `replay: ${replay(seed, filter)}${actions ? ' --actions FILE' : ''}`,
    ...(actions ? [`FILE: ${JSON.stringify(actions)}`] : []),
    `shrunk from ${failing.actions.length} to ${small.actions.length} actions: ${small.violation?.text ?? ''}`,
    ...small.actions.map(({ at, kind }) => `  at ${at}: ${kind}`),
    describe(small),
    ...small.trace,
  ].join('\n')
}

export function describe({ shape, events }: ScheduleResult): string {
  const cut = (instances: typeof shape.prefills) =>
    instances.map(({ ranks }) => ranks.length).join(' + ')
  return `${shape.mode}, fence ${shape.fence}${shape.fence === 'engine' ? ` (${shape.medium})` : ''}, prefill ranks ${cut(shape.prefills)}, decode ranks ${cut(shape.decodes)}, ${shape.verify ? 'with digests, ' : ''}${events} events`
}

export { coverageTable }
