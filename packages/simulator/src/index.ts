/** Deterministic schedules of the kvx protocol: many processes, a hostile network, late writes. */
export { runSchedule, type ScheduleOptions, type ScheduleResult } from './schedule.ts'
export { coverageFaults, noTotals, runRange, type Filter, type Totals } from './job.ts'
export { shrink } from './shrink.ts'
export { unreachable } from './unreachable.ts'
export { Coverage, type CoverageRows } from './coverage.ts'
export { fences, modes, type Mode, type Shape } from './shape.ts'
export { type Action, type ActionKind } from './actions.ts'
