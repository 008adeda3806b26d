/** Deterministic schedules of the kvx protocol: many processes, a hostile network, late writes. */
export { runSchedule, type ScheduleOptions, type ScheduleResult } from './schedule.ts'
export { Coverage, type CoverageRows } from './coverage.ts'
export { fences, modes, type Mode, type Shape } from './shape.ts'
export { type Action, type ActionKind } from './actions.ts'
