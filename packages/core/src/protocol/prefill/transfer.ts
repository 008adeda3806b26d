/** A transfer: one reserve of one decode rank, from being parked until nothing of it can land any more. */
import { KvxError } from '@kvx/contract'
import { count, failureFields, toldError } from '../keys.ts'
import { protocolVersion, unpackPages, type MessageOf } from '../messages.ts'
import { neverProvided, unpaired } from './lateness.ts'
import { pagesObjection } from './pages.ts'
import { landedUnits } from './piece.ts'
import { sendTo, tell } from './send.ts'
import type { Peer, PrefillState, PrefillStep, Transfer } from './state.ts'

export function askForPages(step: PrefillStep, target: Transfer): void {
  if (target.pages || target.asked || target.phase !== 'paired') return
  target.asked = true
  target.deadline = step.now + step.state.self.deadlines.progress
  tell(step, target, { k: 'ready' })
}

export function onPages(step: PrefillStep, peer: Peer, message: MessageOf<'pages'>): void {
  const transfer = seen(peer, message.ep)
  if (!transfer || transfer.pages || (transfer.phase !== 'parked' && transfer.phase !== 'paired')) {
    count(step.state.dropped, 'pages not wanted')
    return
  }
  const pages = unpackPages(message.pages)
  const wrong = pagesObjection(step.state.self.shape, peer, transfer.prompt, pages)
  if (wrong) {
    const about = { phase: 'reserve', peer: peer.instance } as const
    const error = new KvxError('ERR_KVX_PAGES_INVALID', wrong, about)
    step.news.push({ transfer, happened: 'failed', error })
    return
  }
  transfer.pages = pages
  if (transfer.phase === 'paired') transfer.deadline = Infinity
  step.news.push({ transfer, happened: 'provided' })
}

/** Where is this epoch? Also the answer to a repeated reserve. */
export function onQuery(step: PrefillStep, peer: Peer, epoch: number): void {
  const transfer = seen(peer, epoch)
  sendTo(step, peer, {
    k: 'status',
    gen: peer.generation,
    ep: epoch,
    state: transfer?.phase ?? 'over',
    units: transfer ? landedUnits(transfer) : 0,
    ...consumedField(transfer),
    ...(isQueued(step, transfer) ? { queued: true } : {}),
    ...(transfer?.outcome === undefined ? {} : { outcome: transfer.outcome }),
  })
  if (transfer?.drainedSent) tell(step, transfer, { k: 'drained' })
  if (transfer?.phase === 'paired' && transfer.asked && !transfer.pages)
    tell(step, transfer, { k: 'ready' })
}

export function consumedField(transfer: Transfer | undefined) {
  return transfer?.phase === 'parked' && transfer.consumed ? { consumed: true } : {}
}

/** Whether what this decode rank waits for is its turn here, or that of another decode rank there. */
function isQueued(step: PrefillStep, transfer: Transfer | undefined): boolean {
  const sender = transfer && step.state.rooms.get(transfer.key)?.sender
  if (transfer?.phase === 'parked') return sender?.queuedBy !== undefined
  return transfer?.phase === 'paired' && sender?.queued === true
}

/** Says again what decode has not acknowledged. */
export function repeatOutcome(step: PrefillStep, transfer: Transfer): void {
  if (!transfer.outcome || transfer.acked || !isReachable(transfer)) return
  step.out.push({ do: 'send', connection: transfer.peer.connection, message: transfer.outcome })
  if (transfer.drainedSent) tell(step, transfer, { k: 'drained' })
}

/** Whether a decode rank that is connected has not acknowledged a failure yet. */
export function isFailureUnheard({ peers, connections }: PrefillState): boolean {
  for (const peer of peers.values()) {
    if (connections.get(peer.connection) !== peer.incarnation) continue
    for (const transfer of peer.transfers.values()) {
      if (transfer.phase === 'failed' && !transfer.acked && isReachable(transfer)) return true
    }
  }
  return false
}

/** Whether decode would listen to something about this transfer. */
function isReachable({ peer, generation }: Transfer): boolean {
  return peer.link !== 'lost' && peer.generation === generation
}

export function onAbort(step: PrefillStep, peer: Peer, message: MessageOf<'abort'>): void {
  const transfer = seen(peer, message.ep)
  if (!transfer || (transfer.phase === 'complete' && transfer.acked)) {
    sendTo(step, peer, { k: 'drained', gen: message.gen, ep: message.ep })
    return
  }
  if (transfer.phase === 'failed') {
    transfer.acked = true
    if (transfer.drainedSent) tell(step, transfer, { k: 'drained' })
    sayDrained(step, transfer)
    return
  }
  const phase =
    transfer.phase === 'parked' ? 'parked' : transfer.phase === 'complete' ? 'complete' : 'transfer'
  const error = toldError(message, { instance: peer.instance, rank: peer.rank, phase })
  step.news.push({ transfer, happened: 'failed', error, told: 'told' })
}

export function onAck(step: PrefillStep, peer: Peer, epoch: number): void {
  const transfer = seen(peer, epoch)
  if (!transfer || (transfer.phase !== 'complete' && transfer.phase !== 'failed')) {
    count(step.state.dropped, 'ack')
    return
  }
  transfer.acked = true
  forgetIfOver(step, transfer)
  if (transfer.phase === 'complete') step.news.push({ transfer, happened: 'acked' })
}

/** Every message of a peer moves its watermark. */
export function seen(peer: Peer, epoch: number): Transfer | undefined {
  peer.watermark = Math.max(peer.watermark, epoch)
  return peer.transfers.get(epoch)
}

/**
 * Fails it on this side, and has decode know. `told`: decode knows already, so only `drained` is owed. Returns false
 * when it had ended before.
 */
export function endTransfer(
  step: PrefillStep,
  transfer: Transfer,
  error: KvxError,
  told?: 'told',
): boolean {
  if (transfer.phase === 'failed' || (transfer.phase === 'complete' && transfer.acked)) return false
  transfer.phase = 'failed'
  const sender = step.state.rooms.get(transfer.key)?.sender
  transfer.deadline = step.now + (sender ?? step.state.self).deadlines.linger
  transfer.acked = told === 'told'
  transfer.outcome = {
    v: protocolVersion,
    k: 'failed',
    from: step.state.self.incarnation,
    to: transfer.peer.incarnation,
    gen: transfer.generation,
    ep: transfer.epoch,
    ...failureFields(error),
  }
  if (told !== 'told' && isReachable(transfer)) {
    step.out.push({ do: 'send', connection: transfer.peer.connection, message: transfer.outcome })
  }
  return true
}

/** Says `drained` once nothing of a failed transfer can land any more. */
export function sayDrained(step: PrefillStep, transfer: Transfer): void {
  if (transfer.phase !== 'failed' || transfer.unsettled > 0) return
  if (!transfer.drainedSent) {
    transfer.drainedSent = true
    if (isReachable(transfer)) tell(step, transfer, { k: 'drained' })
  }
  forgetIfOver(step, transfer)
}

export function forgetIfOver(step: PrefillStep, transfer: Transfer): void {
  if (transfer.phase !== 'complete' && transfer.phase !== 'failed') return
  if (!transfer.acked && step.now < transfer.deadline) return
  // What may still land is remembered by its epoch; the room is free.
  if (transfer.unsettled === 0) transfer.peer.transfers.delete(transfer.epoch)
  leaveRoom(step, transfer)
}

export function leaveRoom({ state }: PrefillStep, transfer: Transfer): void {
  const room = state.rooms.get(transfer.key)
  room?.transfers.delete(transfer)
  if (room?.transfers.size === 0 && !room.sender) state.rooms.delete(transfer.key)
}

export function watchTransfer(step: PrefillStep, transfer: Transfer): void {
  if (step.now < transfer.deadline) return
  if (transfer.phase === 'parked') {
    step.news.push({ transfer, happened: 'failed', error: unpaired(step.state, transfer) })
  } else if (transfer.phase === 'paired') {
    const error = neverProvided(step.state, transfer)
    step.news.push({ transfer, happened: 'failed', error })
  } else {
    forgetIfOver(step, transfer)
  }
}
