/** Deterministic schedules of the kvx protocol: many processes, a hostile network, late writes. */
export { Random } from './shape/random.ts'
export { runSchedule, type ScheduleOptions, type ScheduleResult } from './run/schedule.ts'
export { coverageFaults, noTotals, runRange, type Filter, type Totals } from './run/job.ts'
export { shrink } from './run/shrink.ts'
export { unreachable } from './checks/unreachable.ts'
export { Coverage, type CoverageRows } from './checks/coverage.ts'
export { fences, modes, type Mode, type Shape } from './shape/shape.ts'
export { type Action, type ActionKind } from './world/actions.ts'
