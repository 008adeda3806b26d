/** A range of seeds: what a worker process runs, and the sum of several. */
import type { FenceKind } from '@kvx/contract'
import { Coverage, universe, type CoverageRows } from '../checks/coverage.ts'
import { faultNames } from '../shape/faults.ts'
import { runSchedule, type ScheduleResult } from './schedule.ts'
import type { Mode } from '../shape/shape.ts'
import type { Action } from '../world/actions.ts'
import { reasonOf } from '../checks/unreachable.ts'

export interface Filter {
  readonly mode?: Mode
  readonly fence?: FenceKind
}

export interface Found {
  readonly seed: number
  readonly check: string
  readonly text: string
  /** Where they are not those that the seed draws. */
  readonly actions?: readonly Action[]
}

export interface Totals {
  schedules: number
  events: number
  succeeded: number
  failed: number
  healthy: number
  /** Schedules by their number of events. */
  histogram: Record<number, number>
  violations: Found[]
  /** Schedules with a violation, by check. */
  byCheck: Record<string, number>
  coverage: CoverageRows
}

export function noTotals(): Totals {
  return {
    schedules: 0,
    events: 0,
    succeeded: 0,
    failed: 0,
    healthy: 0,
    histogram: {},
    violations: [],
    byCheck: {},
    coverage: {},
  }
}

/** Violations that are kept with their text. */
const kept = 50

/** Runs the schedules `from` to `from + count`, exclusive. */
export function runRange(from: number, count: number, filter: Filter = {}): Totals {
  const totals = noTotals()
  const coverage = new Coverage()
  for (let seed = from; seed < from + count; seed++) {
    addResult(totals, runSchedule({ ...filter, seed, coverage }))
  }
  totals.coverage = coverage.rows()
  return totals
}

/** @param actions where they are not those that the seed draws */
export function addResult(
  totals: Totals,
  result: ScheduleResult,
  actions?: readonly Action[],
): void {
  const { seed, violation } = result
  totals.schedules++
  totals.events += result.events
  totals.succeeded += result.succeeded
  totals.failed += result.failed
  totals.healthy += result.healthy
  totals.histogram[result.events] = (totals.histogram[result.events] ?? 0) + 1
  if (violation) note(totals, { seed, ...violation, ...(actions && { actions }) })
}

function note(totals: Totals, found: Found): void {
  totals.byCheck[found.check] = (totals.byCheck[found.check] ?? 0) + 1
  if (totals.violations.length < kept) totals.violations.push(found)
}

export function addTotals(sum: Totals, more: Totals): void {
  sum.schedules += more.schedules
  sum.events += more.events
  sum.succeeded += more.succeeded
  sum.failed += more.failed
  sum.healthy += more.healthy
  for (const [events, count] of Object.entries(more.histogram))
    sum.histogram[Number(events)] = (sum.histogram[Number(events)] ?? 0) + count
  for (const [check, count] of Object.entries(more.byCheck))
    sum.byCheck[check] = (sum.byCheck[check] ?? 0) + count
  sum.violations.push(...more.violations.slice(0, kept - sum.violations.length))
  const coverage = new Coverage()
  coverage.add(sum.coverage)
  coverage.add(more.coverage)
  sum.coverage = coverage.rows()
}

/** Events per schedule below which a share of all schedules lies. */
export function quantile({ histogram, schedules }: Totals, share: number): number {
  let left = share * schedules
  const sorted = Object.entries(histogram)
    .map(([events, count]) => [Number(events), count] as const)
    .sort(([a], [b]) => a - b)
  for (const [events, count] of sorted) {
    left -= count
    if (left <= 0) return events
  }
  return 0
}

/**
 * Cells that were reached though they are held to be unreachable, or are not known at all; and, after enough
 * schedules, reachable ones that were not.
 */
export function coverageFaults({ coverage, schedules }: Totals): {
  wrong: string[]
  missed: string[]
} {
  const wrong: string[] = []
  const missed: string[] = []
  const rows = new Set(universe.map(({ side, kind, state }) => `${side} ${kind} ${state}`))
  for (const row of Object.keys(coverage))
    if (!rows.has(row)) wrong.push(`The coverage table has no row '${row}', and it was reached.`)
  for (const { side, kind, state } of universe) {
    const counts = coverage[`${side} ${kind} ${state}`]
    const never: string[] = []
    for (const [i, fault] of faultNames.entries()) {
      const count = counts?.[i] ?? 0
      const reason = reasonOf(side, kind, state, fault)
      const cell = `${side} ${kind} ${state}, ${fault}`
      if (count > 0 && reason !== undefined)
        wrong.push(
          `The cell '${cell}' was reached ${count} times; it is held to be unreachable: ${reason}`,
        )
      else if (count === 0 && reason === undefined) never.push(fault)
    }
    if (never.length > 0 && schedules >= enough)
      missed.push(`${side} ${kind} ${state} was never reached after: ${never.join(', ')}`)
  }
  return { wrong, missed }
}

/** Schedules after which every reachable cell must have been reached. */
const enough = 100_000
