/** A reserve of decode: refused, or parked in its room until all are here. */
import { KvxError, type ErrorCode } from '@kvx/contract'
import { sameBytes } from '../keys.ts'
import { rankName, sameRank } from '../../share/index.ts'
import { unpackPages, type MessageOf } from '../messages.ts'
import { drainingError } from './draining.ts'
import { sizeObjection } from '../fit.ts'
import { pagesObjection } from './pages.ts'
import { pair, roomOf } from './room.ts'
import { peerName, refuse, tell } from './send.ts'
import { failSender } from './sender.ts'
import type { Peer, PrefillStep, Transfer } from './state.ts'
import { consumedField, onQuery } from './transfer.ts'

export function onReserve(
  step: PrefillStep,
  peer: Peer,
  message: MessageOf<'reserve'>,
  key: string,
): void {
  const { state, now } = step
  const live = peer.transfers.get(message.ep)
  if (live) {
    onQuery(step, peer, message.ep)
    return
  }
  const stale = message.ep <= peer.watermark
  peer.watermark = Math.max(peer.watermark, message.ep)
  const say = (code: ErrorCode, text: string) =>
    new KvxError(code, text, {
      phase: 'reserve',
      peer: state.self.instance,
      rank: rankName(state.self.rank),
    })
  const error = stale
    ? say('ERR_KVX_STALE', `Epoch ${String(message.ep)} is over.`)
    : objection(step, peer, message, key, say)
  if (error) {
    refuse(step, peer, message.gen, message.ep, error)
    const sender = state.rooms.get(key)?.sender
    if (error.code === 'ERR_KVX_PROMPT_MISMATCH' && sender?.phase === 'waiting') {
      failSender(step, sender, error)
    }
    return
  }
  const room = roomOf(step, key)
  const transfer: Transfer = {
    peer,
    epoch: message.ep,
    generation: message.gen,
    key,
    prompt: { tokens: message.tokens, prefix: message.prefix },
    digest: message.digest,
    digests: message.digests,
    consumed: state.ended.has(key),
    loads: new Map(),
    lastLoad: 0,
    stagedBytes: 0,
    pages: message.pages && unpackPages(message.pages),
    phase: 'parked',
    deadline: now + state.self.deadlines.pairing,
    asked: false,
    landed: {},
    unsettled: 0,
    outcome: undefined,
    acked: false,
    drainedSent: false,
    airtime: { posted: 0, since: 0, ms: 0 },
  }
  peer.transfers.set(message.ep, transfer)
  room.transfers.add(transfer)
  if (!pair(step, room))
    tell(step, transfer, { k: 'accept', state: 'parked', ...consumedField(transfer) })
}

function objection(
  step: PrefillStep,
  peer: Peer,
  message: MessageOf<'reserve'>,
  key: string,
  say: (code: ErrorCode, text: string) => KvxError,
): KvxError | undefined {
  const { state } = step
  const { self } = state
  const ended = state.ended.get(key)
  if (ended?.error) return ended.error
  const room = state.rooms.get(key)
  for (const other of room?.transfers ?? []) {
    if (
      other.peer.instance === peer.instance &&
      sameRank(other.peer.rank, peer.rank) &&
      other.phase !== 'failed'
    ) {
      return say('ERR_KVX_ROOM_IN_USE', `Room ${key} already has a reserve of ${peerName(peer)}.`)
    }
  }
  const sender = room?.sender
  if (state.draining && !sender) return drainingError(step)
  if (sender && sender.phase !== 'waiting') {
    return say('ERR_KVX_ROOM_IN_USE', `Room ${key} already belongs to a running request.`)
  }
  if (sender && (sender.tokens !== message.tokens || !sameBytes(sender.digest, message.digest))) {
    return say(
      'ERR_KVX_PROMPT_MISMATCH',
      `Prefill and decode were given different prompts for room ${key}.`,
    )
  }
  const { tokens, prefix } = message
  if (prefix > tokens || (prefix < tokens && prefix % peer.prefixBlock !== 0)) {
    return say(
      'ERR_KVX_PROTOCOL',
      `The prefix of ${String(prefix)} tokens must be a multiple of ${String(peer.prefixBlock)}, the tokens of decode's pages, or all ${String(tokens)} tokens of the prompt.`,
    )
  }
  const tooLong = sizeObjection(self, tokens)
  if (tooLong !== undefined) return say('ERR_KVX_INVALID_ARGUMENT', tooLong)
  const wrong =
    message.pages &&
    pagesObjection(self.shape, peer, { tokens, prefix }, unpackPages(message.pages))
  if (wrong !== undefined) return say('ERR_KVX_PAGES_INVALID', wrong)
  // Failures that are not acknowledged count as well: they are remembered for the linger.
  let idle = 0
  for (const { phase } of peer.transfers.values()) {
    if (phase === 'parked' || phase === 'failed') idle++
  }
  if (!sender && idle >= self.limits.parkedPerPeer) {
    return say(
      'ERR_KVX_OVER_LIMIT',
      `${String(idle)} reserves of ${peerName(peer)} already wait for their prefill leg, or for being acknowledged.`,
    )
  }
  return undefined
}
