/** Pieces: what one write moves to one decode rank, from its place in the queue until its bytes have landed. */
import { KvxError } from '@kvx/contract'
import type { PlanPart } from '../../plan/index.ts'
import { rankName } from '../rank.ts'
import { tell } from './send.ts'
import type { Peer, Piece, PiecePart, PrefillStep, Transfer } from './state.ts'

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
      parts: piece.parts.map((part) => planPart(piece.transfer, part)),
      deadlineMs: piece.sender.deadlines.transfer,
    })
    posted(step, piece)
  }
}

function planPart(transfer: Transfer, part: PiecePart): PlanPart {
  const { component, layers, sourcePages } = part
  return { component, layers, sourcePages, destinationPages: destinationOf(transfer, part) }
}

function destinationOf({ pages, state }: Transfer, part: PiecePart): Int32Array {
  const { component, sourcePages, first } = part
  if (component !== 'kv') return state[component] ?? new Int32Array()
  return (pages ?? new Int32Array()).subarray(first, first + sourcePages.length)
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
  for (const { component, units, bytes } of piece.parts) {
    const part = (transfer.landed[component] ??= { units: 0, bytes: 0 })
    part.units += units
    part.bytes += bytes
  }
  if (transfer.phase === 'paired')
    tell(step, transfer, { k: 'progress', pages: landedPages(transfer) })
}

/** Whole pages of the cache that have landed; layer by layer they count as a share. */
export function landedPages({ landed, peer }: Transfer): number {
  return Math.floor((landed.kv?.units ?? 0) / Math.max(1, peer.kvLayers.length))
}

/** The error names who is concerned: engines know addresses only. Returns undefined when the piece has ended before. */
export function endPiece(step: PrefillStep, piece: Piece, error: KvxError): KvxError | undefined {
  if (piece.status !== 'posted') return undefined
  piece.status = 'failed'
  piece.failedAt = step.now
  land(step, piece.transfer)
  const { code, message, phase = 'transfer' } = error
  const { instance, rank } = piece.transfer.peer
  return new KvxError(code, message, { cause: error, phase, peer: instance, rank: rankName(rank) })
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

export function cancelPosted(step: PrefillStep, transfer: Transfer): void {
  for (const piece of step.state.pieces.values()) {
    if (piece.transfer !== transfer) continue
    piece.failedAt ??= step.now
    if (piece.status === 'posted') step.out.push({ do: 'cancel', piece: piece.id })
  }
}

export function returnCredit(piece: Piece): void {
  piece.transfer.peer.inFlight -= piece.credit
  piece.credit = 0
}
