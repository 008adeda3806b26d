/**
 * Who says what, and when: pure, shared by production and simulation. Who calls these functions sees to their arguments:
 * peers' messages are parsed, and what a host gives is checked by the manager.
 */
export { divide, fewestRuns, type StagingSize } from './bays.ts'
export { sizeObjection, type Itself } from './fit.ts'
export { helloOf, welcomeOf } from './greeting.ts'
export { noNewRequests, roomKey, type Draining, type PeerGone, type Sample } from './keys.ts'
export * from './messages.ts'
export * from '../share/index.ts'
export * from './settings.ts'
export { readEnvelope, type Unreadable } from './unreadable.ts'
export {
  createPrefill,
  type PrefillEffect,
  type PrefillEvent,
  type PrefillState,
} from './prefill/state.ts'
export { stepPrefill } from './prefill/step.ts'
export { sendObjection } from './prefill/sender.ts'
export { isFailureUnheard } from './prefill/transfer.ts'
export {
  createDecode,
  type DecodeEffect,
  type DecodeEvent,
  type DecodeState,
} from './decode/state.ts'
export { stepDecode } from './decode/step.ts'
export { receiveObjection } from './decode/request.ts'
