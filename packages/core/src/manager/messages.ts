/** What a manager's messages take. */
import { KvxError } from '@kvx/contract'
import { baseUnsentBytes, encodeMessage, maxMessageBytes } from '../control/index.ts'
import type { Place } from '../place/index.ts'
import type { Message } from '../protocol/index.ts'
import type { Limits } from './types.ts'

/** All that is said of one request before the other side says something, without page lists and blobs. */
const perRequest = 2_048

/**
 * Bytes that may wait for one peer. The load that the limits of this side allow does not reach it by itself: each live
 * request said once, its pages named twice, and the blobs of all reserves that a peer may have parked.
 */
export function maxUnsentBytes(
  role: 'prefill' | 'decode',
  { requests, parkedPerPeer, auxBytes }: Limits,
  { components }: Place,
): number {
  const named = Object.values(components).reduce((sum, { pages }) => sum + 8 * pages, 0)
  const blobs = role === 'prefill' ? parkedPerPeer * auxBytes : 0
  return baseUnsentBytes + requests * perRequest + named + blobs
}

/**
 * Whether the message by which this rank introduces itself can be sent at all.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION`
 */
export function checkGreeting(greeting: Message, { tensors }: Place): void {
  try {
    encodeMessage(greeting)
  } catch (cause) {
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `The ${String(tensors.length)} tensors of this rank do not fit into the '${greeting.k}' that tells the other side of them, which may have ${String(maxMessageBytes)} bytes. ${(cause as Error).message} Equal tensors of consecutive layers, at equal distances, take little; else split the layers among more ranks.`,
      { phase: 'open', cause },
    )
  }
}
