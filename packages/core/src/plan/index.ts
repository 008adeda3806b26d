/** Which bytes go where: pure functions from layouts and pages to a `TransferPlan`. */
export { checksumJob, pageChecksums } from './checksum.ts'
export { checkCovered, checkFit } from './fit.ts'
export { groupPages } from './group.ts'
export { pairLanes, type Lanes } from './lanes.ts'
export { Planner, planTransfer, type PlanPart } from './plan.ts'
export { Pairing, type Moved, type RequestPart, type TokenPart } from './pairing.ts'
export { type RankCache } from './component.ts'
export { writtenPages, type Prompt } from './span.ts'
