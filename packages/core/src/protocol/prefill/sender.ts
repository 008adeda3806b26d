/** The request of this side's host: how it begins, how the end of one part ends it all, and when its pages are free. */
import { KvxError, type Phase } from '@kvx/contract'
import { hostReason, sameBytes } from '../keys.ts'
import { isPublisher, rankName } from '../../share/index.ts'
import { neverAcked, neverEnded, neverReserved } from './lateness.ts'
import { aboutPiece, cancelPosted, endPiece } from './piece.ts'
import { findMismatch, pair, roomOf } from './room.ts'
import { dropQueued, tellSettled } from './settle.ts'
import type { Piece, PrefillEvent, PrefillState, PrefillStep, Sender, Transfer } from './state.ts'
import { askForPages, endTransfer, forgetIfOver, sayDrained } from './transfer.ts'

/** Why a new leg cannot be taken, or undefined. */
export function sendObjection(state: PrefillState, key: string): KvxError | undefined {
  if (state.broken) return state.broken
  if (state.rooms.get(key)?.sender) {
    return new KvxError(
      'ERR_KVX_ROOM_IN_USE',
      `Room ${key} already belongs to a running request.`,
      { phase: 'reserve' },
    )
  }
  if (state.senders.size >= state.self.limits.requests) {
    return new KvxError(
      'ERR_KVX_OVER_LIMIT',
      `${String(state.senders.size)} requests are already running here.`,
      { phase: 'reserve' },
    )
  }
  return undefined
}

export function onSend(step: PrefillStep, event: PrefillEvent & { type: 'host.send' }): void {
  const { state } = step
  const sender: Sender = {
    id: event.sender,
    key: event.key,
    tokens: event.tokens,
    digest: event.digest,
    deadlines: event.deadlines,
    phase: 'waiting',
    deadline: step.now + event.deadlines.pairing,
    queueEnd: step.now + event.deadlines.queue,
    queuedBy: undefined,
    queued: false,
    published: isPublisher(state.self.rank) ? event.published : undefined,
    targets: [],
    wantsPages: false,
    written: new Map(),
    chunks: 0,
    writes: new Map(),
    unsettled: 0,
    aux: undefined,
    error: undefined,
    settledTold: false,
  }
  state.senders.set(sender.id, sender)
  forget(step, sender.key)
  if (sender.published) step.out.push({ do: 'publish', ...sender.published })
  const room = roomOf(step, sender.key)
  room.sender = sender
  const mismatch = findMismatch(room, sender)
  if (mismatch) failMismatch(step, sender, mismatch)
  else pair(step, room)
}

function failMismatch(step: PrefillStep, sender: Sender, mismatch: Transfer): void {
  const { instance, rank } = mismatch.peer
  const error = new KvxError(
    'ERR_KVX_PROMPT_MISMATCH',
    `Prefill and decode were given different prompts for room ${sender.key}.`,
    { phase: 'reserve', peer: instance, rank: rankName(rank) },
  )
  failTransfer(step, mismatch, error)
  failSender(step, sender, error)
}

export function onHostReady(step: PrefillStep, id: number): void {
  const sender = step.state.senders.get(id)
  if (!sender || sender.error) return
  sender.wantsPages = true
  for (const target of sender.targets) askForPages(step, target)
}

export function onHostAbort(step: PrefillStep, id: number, reason: unknown): void {
  const sender = step.state.senders.get(id)
  if (!sender) return
  const { instance, rank } = step.state.self
  const where = { phase: phaseOf(sender), peer: instance, rank: rankName(rank) }
  failSender(step, sender, hostReason(reason, where))
}

export function onDigestsFailed(step: PrefillStep, id: number, error: KvxError): void {
  const sender = step.state.senders.get(id)
  if (sender) failSender(step, sender, error)
}

export function onPieceFailed(step: PrefillStep, id: number, error: KvxError): void {
  const piece = step.state.pieces.get(id)
  if (piece) failPiece(step, piece, error)
}

export function failPiece(step: PrefillStep, piece: Piece, error: KvxError): void {
  const named = endPiece(step, piece, error)
  if (named) failSender(step, piece.sender, named)
}

/** Decode has acknowledged the end of a transfer. All of them make a success. */
export function onAcked(step: PrefillStep, transfer: Transfer): void {
  const sender = step.state.rooms.get(transfer.key)?.sender
  if (sender?.phase !== 'completing' || !sender.targets.includes(transfer)) return
  if (!sender.targets.every((t) => t.phase === 'complete' && t.acked)) return
  sender.phase = 'success'
  remember(step, sender, undefined)
  const landed = sender.targets.map((target) =>
    Object.values(target.landed).reduce((sum, { bytes }) => sum + bytes, 0),
  )
  const stagedBytes = sender.targets.reduce((sum, target) => sum + target.stagedBytes, 0)
  step.out.push({
    do: 'sender.finished',
    sender: sender.id,
    summary: {
      pages: Math.max(...sender.targets.map(pagesOf)),
      bytes: landed.reduce((sum, bytes) => sum + bytes, 0),
      chunks: sender.chunks,
      ms: Math.max(...sender.targets.map(({ airtime }) => airtime.ms)),
      stagedBytes,
    },
  })
  release(step, sender)
}

/** Ends a request that has not ended, with its first cause, on all of its decode ranks. */
export function failSender(step: PrefillStep, sender: Sender, error: KvxError): void {
  if (sender.phase === 'success' || sender.phase === 'failed') return
  const wasWaiting = sender.phase === 'waiting'
  sender.phase = 'failed'
  sender.error = error
  step.out.push({ do: 'sender.failed', sender: sender.id, error })
  remember(step, sender, error)
  for (const target of sender.targets) failTransfer(step, target, error)
  const room = step.state.rooms.get(sender.key)
  if (wasWaiting && room) {
    for (const transfer of room.transfers)
      if (transfer.phase === 'parked') failTransfer(step, transfer, error)
  }
  release(step, sender)
}

/** Of too many the oldest is forgotten. */
function remember(step: PrefillStep, sender: Sender, error: KvxError | undefined): void {
  const { ended, self } = step.state
  const [oldest] = ended.keys()
  if (oldest !== undefined && ended.size >= self.limits.requests) forget(step, oldest)
  const { key, published, deadlines } = sender
  ended.set(key, { error, until: step.now + deadlines.linger, published })
}

/** Until now decode could find where it was, to learn how it ended. */
function forget({ state, out }: PrefillStep, key: string): void {
  const published = state.ended.get(key)?.published
  state.ended.delete(key)
  if (published) out.push({ do: 'withdraw', ...published })
}

/** The room is free for the next request; the sender stays until nothing reads its pages any more. */
function release(step: PrefillStep, sender: Sender): void {
  const room = step.state.rooms.get(sender.key)
  if (room?.sender === sender) {
    room.sender = undefined
    if (room.transfers.size === 0) step.state.rooms.delete(sender.key)
  }
  for (const target of sender.targets) forgetIfOver(step, target)
  tellSettled(step, sender)
}

/** Ends a transfer, and with it the request that it belongs to. `told`: as of `endTransfer`. */
export function failTransfer(
  step: PrefillStep,
  transfer: Transfer,
  error: KvxError,
  told?: 'told',
): void {
  const wasParked = transfer.phase === 'parked'
  if (!endTransfer(step, transfer, error, told)) return
  // The request first: dropping its pieces must not let it look finished.
  const sender = step.state.rooms.get(transfer.key)?.sender
  if (sender?.targets.includes(transfer)) failSender(step, sender, error)
  else if (wasParked) failSiblings(step, transfer, error)
  dropQueued(step, transfer)
  cancelPosted(step, transfer)
  sayDrained(step, transfer)
}

/** The failure of one decode rank reaches the others before they are paired as well. */
function failSiblings(step: PrefillStep, failed: Transfer, error: KvxError): void {
  const room = step.state.rooms.get(failed.key)
  if (!room) return
  const { sender } = room
  if (
    sender?.phase === 'waiting' &&
    sender.tokens === failed.prompt.tokens &&
    sameBytes(sender.digest, failed.digest)
  ) {
    failSender(step, sender, error)
    return
  }
  for (const other of room.transfers) {
    if (other.phase === 'parked' && other.peer.instance === failed.peer.instance)
      failTransfer(step, other, error)
  }
}

export function watchSender(step: PrefillStep, sender: Sender): void {
  if (step.now < sender.deadline) return
  if (sender.phase === 'waiting') failSender(step, sender, neverReserved(sender, step.now))
  else if (sender.phase === 'completing') failSender(step, sender, neverAcked(sender))
}

/** A later reserve learns how a room ended, for the linger. */
export function forgetEnded(step: PrefillStep): void {
  for (const [key, { until }] of step.state.ended) if (step.now >= until) forget(step, key)
}

/**
 * Every write ends at its deadline, also over an engine that does not keep it. Its pages stay taken and its credit
 * held until it has settled.
 */
export function watchPiece(step: PrefillStep, piece: Piece): void {
  if (step.now < piece.deadline) return
  switch (piece.status) {
    case 'posted':
      step.out.push({ do: 'cancel', piece: piece.id })
      failPiece(step, piece, neverEnded(piece))
      return
    case 'gathering':
      failPiece(step, piece, neverEnded(piece))
      return
    case 'asking':
    case 'staged':
      failSender(step, piece.sender, aboutPiece(piece, neverEnded(piece)))
      return
    default:
  }
}

function phaseOf(sender: Sender): Phase {
  return sender.phase === 'waiting'
    ? 'reserve'
    : sender.phase === 'completing'
      ? 'complete'
      : 'transfer'
}

/** Pages and slots that were written to. */
function pagesOf({ pages = {}, peer }: Transfer): number {
  let count = 0
  for (const [name, list] of Object.entries(pages)) {
    if (peer.pairing.layers.has(name)) count += list.length
  }
  return count
}
