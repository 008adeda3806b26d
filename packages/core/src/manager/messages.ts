/** What a manager's messages take. */
import { KvxError } from '@kvx/contract'
import { baseUnsentBytes, encodeMessage, maxMessageBytes } from '../control/index.ts'
import type { Layout } from '../layout/index.ts'
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
  { pages }: Layout,
): number {
  const named = Object.values(pages).reduce((sum, count) => sum + 8 * count, 0)
  const blobs = role === 'prefill' ? parkedPerPeer * auxBytes : 0
  return baseUnsentBytes + requests * perRequest + named + blobs
}

/**
 * Whether the message by which this rank introduces itself can be sent at all.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION`
 */
export function checkGreeting(greeting: Message, { tensors }: Layout): void {
  try {
    encodeMessage(greeting)
  } catch (cause) {
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      `The option 'layout' has ${String(tensors.length)} tensors, more than fit into the '${greeting.k}' that tells the other side of them, which may have ${String(maxMessageBytes)} bytes. ${(cause as Error).message} Give each layer fewer tensors, or split the layers among more ranks.`,
      { phase: 'open', cause },
    )
  }
}
