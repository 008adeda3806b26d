/**
 * KV-cache transfer between prefill and decode: the contract, layout and plan arithmetic, one protocol for
 * all engines, and the managers that a host calls.
 *
 * @packageDocumentation
 */
export * from './backend/index.ts'
export * from './bootstrap/index.ts'
export { isHost } from './control/endpoint.ts'
export { checkToken } from './control/keys.ts'
export * from './layout/index.ts'
export * from './manager/index.ts'
export * from './plan/index.ts'
export * from './pool/index.ts'
export { defaultDeadlines, defaultLimits } from './protocol/index.ts'
