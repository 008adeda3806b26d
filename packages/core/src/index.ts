/**
 * KV-cache transfer between prefill and decode: the contract, layouts, and the managers that a host calls.
 * Every call checks its arguments.
 *
 * @packageDocumentation
 */
export * from './backend/index.ts'
export * from './bootstrap/index.ts'
export { isHost } from './control/endpoint.ts'
export { checkToken } from './control/keys.ts'
export * from './manager/index.ts'
export {
  checkPlace,
  type ComponentPlace,
  type PageOrder,
  type Place,
  type TensorPlace,
} from './place/index.ts'
export { neededPages } from './needed.ts'
export * from './pool/index.ts'
export { defaultDeadlines, defaultLimits, settingsFor } from './protocol/index.ts'
export {
  checkShape,
  promptDigest,
  shapeFingerprint,
  type CacheShape,
  type ComponentShape,
  type TensorShape,
  type TokenIds,
} from './shape/index.ts'
export { dpRankOf, makeRank } from './share/given.ts'
export { type Context, type Rank } from './share/index.ts'
