import { KvxError, toKvxError, type Phase } from '@kvx/contract'
import { clip, type MessageOf } from './messages.ts'
import { rankName, type Rank } from '../share/index.ts'

/** What pairs the two legs of a request. */
export function roomKey(room: bigint, index: number): string {
  return `${String(room)}/${String(index)}`
}

/** What a key is made of: the room, and the number of the sample in it. */
export interface Sample {
  readonly room: bigint
  readonly index: number
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}

/** What an error tells the other side. */
export function failureFields(error: KvxError) {
  return {
    code: error.code,
    text: clip(error.message),
    ...(error.phase === undefined ? {} : { phase: error.phase }),
    ...(error.peer === undefined ? {} : { peer: error.peer.slice(0, 200) }),
    ...(error.rank === undefined ? {} : { rank: error.rank.slice(0, 200) }),
  }
}

/** What the other side told: it names whom it concerns, which may be either side, or means itself. */
export function toldError(
  told: Pick<MessageOf<'failed'>, 'code' | 'text' | 'phase' | 'peer' | 'rank'>,
  teller: { instance: string; rank: Rank; phase?: Phase },
): KvxError {
  const { code, text, phase = teller.phase } = told
  const itself = { peer: teller.instance, rank: rankName(teller.rank) }
  const { peer, rank } = told.peer === undefined ? itself : told
  return new KvxError(code, text, { phase, peer, rank })
}

/** Why a host ends a request: an error stays what it is, words alone say that it was wanted so. */
export function hostReason(
  reason: unknown,
  where: { phase: Phase; peer: string; rank: string },
): KvxError {
  if (typeof reason === 'string') return new KvxError('ERR_KVX_ABORTED', reason, where)
  const { code, message, phase = where.phase, peer, rank } = toKvxError(reason)
  const who = peer === undefined ? where : { peer, rank }
  return new KvxError(code, message, { ...who, cause: reason, phase })
}

/** Why a side takes no new requests: another process is registered in its place, or, without that, it is about to end. */
export interface Draining {
  readonly replaced?: KvxError | undefined
}

export function noNewRequests(who: string, draining: Draining | undefined): string {
  const why = draining?.replaced
    ? `another process has registered in its place. ${draining.replaced.message}`
    : 'it is about to end.'
  return `${who} takes no new requests: ${why}`
}

/** The transfer engine knows that the peer's engine of this generation has ended for good. */
export interface PeerGone {
  type: 'peer.gone'
  generation: string
  /** A sentence. */
  reason: string
}

/** Counts something that changed nothing. */
export function count(counts: Map<string, number>, what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1)
}
