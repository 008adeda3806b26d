import { setTimeout as delay } from 'node:timers/promises'
import { KvxError } from '@kvx/contract'
import { longestMs } from '../deferred.ts'
import {
  noNewRequests,
  roomKey,
  sizeObjection,
  type Draining,
  type Itself,
} from '../protocol/index.ts'
import { sendingObjection, type DpRank, type Rank } from '../share/index.ts'
import { KVPoll, type KVReceiver, type KVSender, type SendRequest } from './types.ts'

/** @throws KvxError `ERR_KVX_CLOSED`, `ERR_KVX_DRAINING` */
export function checkOpen(draining: Draining | undefined, closed: boolean): void {
  if (closed) throw new KvxError('ERR_KVX_CLOSED', 'The manager is closed.')
  if (draining === undefined) return
  throw new KvxError('ERR_KVX_DRAINING', noNewRequests('The manager', draining), {
    cause: draining.replaced,
  })
}

/**
 * Once a request has ended nobody would answer.
 * @throws KvxError why it failed, or `ERR_KVX_INVALID_STATE` after its success
 */
export function checkLive(leg: KVSender | KVReceiver): void {
  if (leg.error) throw leg.error
  if (leg.poll() !== KVPoll.Success) return
  const key = roomKey(leg.room, leg.index)
  throw new KvxError('ERR_KVX_INVALID_STATE', `Room ${key} has ended with success.`)
}

/**
 * Whether the prompt fits into the pool.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function checkSize({ tokens }: SendRequest, self: Itself): void {
  const wrong = sizeObjection(self, tokens)
  if (wrong !== undefined)
    throw new KvxError('ERR_KVX_INVALID_ARGUMENT', wrong, { phase: 'reserve' })
}

/**
 * Whether a request is for this data-parallel rank.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function checkDpRank(rank: Rank, room: bigint, dpRank: DpRank): void {
  const wrong = sendingObjection(rank, room, dpRank)
  if (wrong === undefined) return
  throw new KvxError('ERR_KVX_INVALID_ARGUMENT', `request: ${wrong}.`, { phase: 'reserve' })
}

/** Waits for `work`, but not longer than `ms`. */
export async function until(work: Promise<unknown>, ms: number): Promise<void> {
  const late = new AbortController()
  await Promise.race([
    work,
    delay(Math.min(ms, longestMs), undefined, { signal: late.signal }).catch(() => undefined),
  ])
  late.abort()
}
