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
export {
  checkLayout,
  layoutFingerprint,
  promptDigest,
  type Layout,
  type Part,
  type Tensor,
  type TokenIds,
} from './layout/index.ts'
export * from './manager/index.ts'
export * from './pool/index.ts'
export { defaultDeadlines, defaultLimits, settingsFor } from './protocol/index.ts'
