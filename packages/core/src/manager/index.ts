/** What a host calls: KVManager, KVSender, KVReceiver. */
export { KVManager } from './open.ts'
export {
  KVPoll,
  type Aux,
  type Chunk,
  type Deadlines,
  type KVManagerOptions,
  type KVReceiver,
  type KVSender,
  type Limits,
  type PageList,
  type ReceiveRequest,
  type SendRequest,
  type TransferSummary,
  type WaitOptions,
} from './types.ts'
