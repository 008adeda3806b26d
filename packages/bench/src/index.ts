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
export { compareFindings, joinedFindings } from './compare/tell.ts'
export {
  runCompare,
  standalone,
  type CompareOptions,
  type CompareResult,
  type CompareSample,
  type Contender,
  type LoadSample,
} from './compare/run.ts'
export { comparison } from './report/baseline.ts'
export { svgOf } from './report/charts.ts'
export {
  beginReport,
  documentOf,
  readDocument,
  type Heading,
  type ReportDocument,
} from './report/document.ts'
export type { Chart, Findings, Measure, Table } from './report/findings.ts'
export { pageOf } from './report/page.ts'
export { tableText } from './report/text.ts'
export type { Launch, ServerProcess } from './serving/launch.ts'
export { runLoad, type LoadOptions, type LoadRequest, type LoadResult } from './load/run.ts'
export { loadFindings } from './load/tell.ts'
export type { MemorySample } from './serving/memory.ts'
export { findFastest, rounded } from './trace/fastest.ts'
export { readTrace, type TraceLine } from './trace/read.ts'
export { runTrace, type TraceOptions, type TracePass, type TraceRequest } from './trace/run.ts'
export { traceFindings } from './trace/tell.ts'
export {
  runAccuracy,
  suppressed,
  type AccuracyOptions,
  type AccuracyResult,
  type AccuracySample,
} from './accuracy/run.ts'
export { accuracyFindings } from './accuracy/tell.ts'
export {
  runModelBench,
  type ModelBenchOptions,
  type ModelBenchResult,
  type ModelRow,
  type ModelSample,
} from './transfer/model.ts'
export { modelFindings, nixlText } from './transfer/tell.ts'
