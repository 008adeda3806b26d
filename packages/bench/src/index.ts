/**
 * A synthetic host: the caches of known models, in every topology, with bytes that can be verified at the target.
 *
 * @packageDocumentation
 */
export { describeMismatch, fill, verify, type Content, type Mismatch } from './bytes.ts'
export {
  modelNames,
  models,
  type Block,
  type EmptyBlock,
  type HeadsBlock,
  type LatentBlock,
  type MambaBlock,
  type Model,
  type ModelName,
} from './models.ts'
export { placeOf, type PlaceOptions } from './place.ts'
export { ranksOf, type Topology } from './ranks.ts'
export { type RequestCache } from './rows.ts'
export { shapeOf, type CacheDtype, type ShapeOptions } from './shape.ts'
export { type DpRouting, type SideOptions, type SyntheticOptions } from './synthetic/options.ts'
export { type RequestReport, type SyntheticReport } from './synthetic/report.ts'
export { runSynthetic } from './synthetic/run.ts'
export {
  runTransferBench,
  type TransferBenchOptions,
  type TransferBenchReport,
  type TransferRow,
} from './transfer/run.ts'
export { type Where } from './transfer/side.ts'
