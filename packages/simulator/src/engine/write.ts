/** A write on its way: copies that land one after another, in any order, until it has settled. */
import { KvxError } from '@kvx/contract'
import type { ReceiveLeg, SendLeg } from '../books/legs.ts'
import type { Fate } from '../machine/process.ts'
import type { EngineLink } from '../ranks/link.ts'
import type { PostedLoad, TakenBay } from '../ranks/decode.ts'
import type { Gathered, PrefillRank } from '../ranks/prefill.ts'

export interface Write {
  readonly piece: number
  readonly from: PrefillRank
  readonly link: EngineLink
  /** Source, destination and length of each copy, in the order in which they land. */
  readonly copies: Int32Array
  /** Index of the next copy that lands. */
  next: number
  readonly bytes: number
  readonly fate: Fate
  readonly deadline: number
  /** Whose pages it reads, and whose it fills, as the books said when it was posted. */
  readonly reader: SendLeg | undefined
  readonly owner: ReceiveLeg | undefined
  readonly epoch: number
  told: 'no' | 'done' | 'failed'
  settled: boolean
  /** Its engine was closed and could not promise for the target. */
  abandoned: boolean
  flips: boolean
  /** Of a load: what it reads, the bay that it fills, and where that begins. */
  readonly staged: StagedCargo | undefined
  /** The writer's memory when it had sent everything; undefined while its pages are still read. */
  sent: Uint8Array | undefined
}

export interface StagedCargo {
  readonly gathered: Gathered
  /** Undefined when the target hears nothing of it any more. */
  readonly bay: TakenBay | undefined
  /** Addresses of both bays. */
  readonly from: number
  readonly to: number
  /** In the pages of the target, of each byte. */
  readonly meant: PostedLoad | undefined
}

/** The target still lets something of it in. */
export function canLand({ from, link, settled, next, copies }: Write, fence: string): boolean {
  if (settled || next >= copies.length) return false
  const { target } = link
  if (!target.alive || target.generation !== link.generation || link.revoked) return false
  return fence !== 'exit' || from.alive
}

/** Why a write failed. */
export function broken(why: string): KvxError {
  return new KvxError('ERR_KVX_TRANSFER_FAILED', `the write failed: ${why}`, { phase: 'transfer' })
}
