/** Pieces: what one write moves to one decode rank, from its credit to its settling. */
import { KvxError } from '@kvx/contract'
import { rankName } from '../rank.ts'
import { tell } from './send.ts'
import { finishIfLanded, failSender, tellSettled } from './senders.ts'
import type { Peer, Piece, PrefillStep, Transfer } from './state.ts'
import { drain } from './transfers.ts'

export function enqueue(
  step: PrefillStep,
  piece: Omit<Piece, 'id' | 'credit' | 'status' | 'deadline' | 'failedAt' | 'abandoned'>,
): void {
  const queued: Piece = {
    ...piece,
    id: step.state.nextPiece++,
    credit: 0,
    status: 'queued',
    deadline: Infinity,
    failedAt: undefined,
    abandoned: false,
  }
  step.state.pieces.set(queued.id, queued)
  piece.transfer.unsettled++
  piece.sender.unsettled++
  piece.transfer.peer.queue.push(queued)
}

/** Posts what has a credit. A piece whose pages are not known yet holds up nobody else's. */
export function pump(step: PrefillStep, peer: Peer): void {
  if (peer.link !== 'open' || step.state.recycle?.phase === 'closing') return
  const limit = step.state.self.limits.bytesInFlightPerPeer
  for (;;) {
    const next = peer.queue.findIndex((piece) => piece.transfer.pages !== undefined)
    const piece = peer.queue[next]
    if (!piece) return
    if (peer.inFlight > 0 && peer.inFlight + piece.bytes > limit) return
    peer.queue.splice(next, 1)
    piece.credit = piece.bytes
    peer.inFlight += piece.credit
    piece.status = 'posted'
    piece.deadline = step.now + piece.sender.deadlines.transfer
    takeOff(step, piece.transfer)
    step.out.push({
      do: 'post',
      piece: piece.id,
      peer: peer.incarnation,
      generation: piece.transfer.generation,
      parts: piece.parts(),
      deadlineMs: piece.sender.deadlines.transfer,
    })
    posted(step, piece)
  }
}

function takeOff(step: PrefillStep, { airtime }: Transfer): void {
  if (airtime.posted++ === 0) airtime.since = step.now
}

function land(step: PrefillStep, { airtime }: Transfer): void {
  if (--airtime.posted === 0) airtime.ms += step.now - airtime.since
}

function posted(step: PrefillStep, piece: Piece): void {
  const { sender, write } = piece
  const left = (sender.writes.get(write) ?? 1) - 1
  if (left > 0) {
    sender.writes.set(write, left)
    return
  }
  sender.writes.delete(write)
  if (write > 0) step.out.push({ do: 'sender.posted', sender: sender.id, write })
}

export function onPieceDone(step: PrefillStep, id: number): void {
  const piece = step.state.pieces.get(id)
  if (piece?.status !== 'posted') return
  piece.status = 'done'
  const { transfer } = piece
  land(step, transfer)
  for (const { component, pages, bytes } of piece.moved) {
    const part = (transfer.landed[component] ??= { units: 0, bytes: 0 })
    part.units += pages
    part.bytes += bytes
  }
  if (transfer.phase === 'paired')
    tell(step, transfer, { k: 'progress', pages: landedPages(transfer) })
}

/** Whole pages of the cache that have landed; layer by layer they count as a share. */
export function landedPages({ landed, peer }: Transfer): number {
  return Math.floor((landed.kv?.units ?? 0) / Math.max(1, peer.kvLayers.length))
}

export function onPieceFailed(step: PrefillStep, id: number, error: KvxError): void {
  const piece = step.state.pieces.get(id)
  if (piece?.status !== 'posted') return
  piece.status = 'failed'
  piece.failedAt = step.now
  land(step, piece.transfer)
  failSender(step, piece.sender, named(piece.transfer.peer, error))
}

/**
 * Every write ends at its deadline, also over an engine that does not keep it. Its pages stay taken and its credit
 * held until it has settled.
 */
export function watchPieces(step: PrefillStep): void {
  for (const piece of [...step.state.pieces.values()]) {
    if (piece.status !== 'posted' || step.now < piece.deadline) continue
    step.out.push({ do: 'cancel', piece: piece.id })
    const ms = String(piece.sender.deadlines.transfer)
    const error = new KvxError(
      'ERR_KVX_TRANSFER_TIMEOUT',
      `A write of room ${piece.sender.key} did not end within ${ms} ms.`,
      { phase: 'transfer' },
    )
    onPieceFailed(step, piece.id, error)
  }
}

/** Engines know addresses; who is concerned is known here. */
function named(peer: Peer, error: KvxError): KvxError {
  const { code, message, phase = 'transfer' } = error
  const { instance, rank } = peer
  return new KvxError(code, message, { cause: error, phase, peer: instance, rank: rankName(rank) })
}

export function onPieceSettled(step: PrefillStep, id: number): void {
  const piece = step.state.pieces.get(id)
  if (!piece) return
  settle(step, piece)
  pump(step, piece.transfer.peer)
}

/**
 * The engine that wrote it is closed, so that nothing reads the source pages any more. Whether everything has
 * landed it cannot say: only the target's own fence can, and `drained` is not said before.
 */
export function abandon(step: PrefillStep, piece: Piece): void {
  const { peer, generation } = piece.transfer
  if (generation === peer.generation) {
    piece.abandoned = true
    releaseSource(step, piece)
  } else {
    // The target has closed the engine that it was written into.
    settle(step, piece)
  }
}

/**
 * The target has closed the engine that these pieces were written into. Nothing of them can land any more; what the
 * own engine still has to settle burdens a link that is closed, not the next one.
 */
export function onTargetRenewed(step: PrefillStep, peer: Peer): void {
  for (const piece of [...step.state.pieces.values()]) {
    if (piece.transfer.peer !== peer) continue
    if (piece.abandoned) settle(step, piece)
    else returnCredit(piece)
  }
}

/** Whether pieces of this peer wait for a credit that these others hold. */
export function isStarved(step: PrefillStep, peer: Peer, others: readonly Piece[]): boolean {
  const held = others.reduce((sum, p) => sum + (p.transfer.peer === peer ? p.credit : 0), 0)
  const next = peer.queue.find(({ transfer }) => transfer.pages !== undefined)
  return (
    held > 0 &&
    next !== undefined &&
    held + next.bytes > step.state.self.limits.bytesInFlightPerPeer
  )
}

/** Cancels what is posted, and drops what is not. */
export function dropPieces(step: PrefillStep, transfer: Transfer): void {
  const { queue } = transfer.peer
  for (const piece of queue.filter((p) => p.transfer === transfer)) {
    queue.splice(queue.indexOf(piece), 1)
    settle(step, piece)
  }
  for (const piece of step.state.pieces.values()) {
    if (piece.transfer !== transfer) continue
    piece.failedAt ??= step.now
    if (piece.status === 'posted') step.out.push({ do: 'cancel', piece: piece.id })
  }
}

function settle(step: PrefillStep, piece: Piece): void {
  step.state.pieces.delete(piece.id)
  piece.transfer.unsettled--
  drain(step, piece.transfer)
  if (!piece.abandoned) releaseSource(step, piece)
}

function returnCredit(piece: Piece): void {
  piece.transfer.peer.inFlight -= piece.credit
  piece.credit = 0
}

/** Source pages and credit of a piece that is over on this side. */
function releaseSource(step: PrefillStep, piece: Piece): void {
  returnCredit(piece)
  piece.sender.unsettled--
  tellSettled(step, piece.sender)
  finishIfLanded(step, piece.sender)
}
