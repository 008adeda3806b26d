/** Which bytes go where: pure functions from shapes, places and pages to a `TransferPlan`. */
export { type RankCache } from './component.ts'
export { digestJob, type DigestPart } from './digest/job.ts'
export { addDigests, differingLayers, layerDigests } from './digest/layers.ts'
export { Pairing, type Moved, type RequestPart, type TokenPart } from './pairing.ts'
export { countRuns } from './run-count.ts'
export { pagesWith, prefixBlock, providedPages, writtenPages, type Prompt } from './span.ts'
