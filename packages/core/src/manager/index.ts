/** What a host calls: PrefillManager, DecodeManager, KVSender, KVReceiver. */
export { KVManager } from './open.ts'
export {
  KVPoll,
  type Aux,
  type Chunk,
  type Deadlines,
  type DecodeManager,
  type DecodeOptions,
  type KVManagerOptions,
  type KVReceiver,
  type KVSender,
  type PeerState,
  type Limits,
  type PageList,
  type PageListsByComponent,
  type PrefillManager,
  type PrefillOptions,
  type ReceiveRequest,
  type Reserved,
  type SendRequest,
  type TransferSummary,
  type WaitOptions,
} from './types.ts'
