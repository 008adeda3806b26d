/** Pieces: what one write moves to one decode rank, from its place in the queue until its bytes have landed. */
import { KvxError } from '@kvx/contract'
import type { Prompt, RequestPart, TokenPart } from '../../plan/index.ts'
import { rankName } from '../../share/index.ts'
import type { PageLists } from '../messages.ts'
import { tell } from './send.ts'
import type { Peer, Piece, PiecePart, PrefillStep, Transfer } from './state.ts'

export function enqueue(
  step: PrefillStep,
  piece: Pick<Piece, 'transfer' | 'sender' | 'write' | 'parts' | 'after'>,
): void {
  const queued: Piece = {
    ...piece,
    id: step.state.nextPiece++,
    planned: undefined,
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
    const { plan, bytes } = plannedOf(piece)
    if (peer.inFlight > 0 && peer.inFlight + bytes > limit) return
    peer.queue.splice(next, 1)
    piece.credit = bytes
    peer.inFlight += piece.credit
    piece.status = 'posted'
    piece.deadline = step.now + piece.sender.deadlines.transfer
    takeOff(step, piece.transfer)
    step.out.push({
      do: 'post',
      piece: piece.id,
      peer: peer.incarnation,
      generation: piece.transfer.generation,
      plan,
      deadlineMs: piece.sender.deadlines.transfer,
      after: piece.after,
    })
    posted(step, piece)
  }
}

/** Its plan, made once decode's pages are known. */
function plannedOf(piece: Piece): NonNullable<Piece['planned']> {
  if (!piece.planned) {
    const { peer, prompt, pages = {} } = piece.transfer
    const parts = piece.parts.map((part) => planPart(part, prompt, pages))
    const { plan, moved } = peer.pairing.plan(parts)
    piece.planned = { plan, moved, bytes: moved.reduce((sum, { bytes }) => sum + bytes, 0) }
  }
  return piece.planned
}

function planPart(part: PiecePart, prompt: Prompt, pages: PageLists): TokenPart | RequestPart {
  const { component, layers, first, source } = part
  const destination = pages[component] ?? new Int32Array()
  if (first === undefined) return { component, layers, source, destination }
  return { component, layers, prompt, first, source, destination }
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
  for (const [i, { component }] of piece.parts.entries()) {
    const { units, bytes } = piece.planned?.moved[i] ?? { units: 0, bytes: 0 }
    const part = (transfer.landed[component] ??= { units: 0, bytes: 0 })
    part.units += units
    part.bytes += bytes
  }
  if (transfer.phase === 'paired')
    tell(step, transfer, { k: 'progress', units: landedUnits(transfer) })
}

/** Tokens, or slots, times layers that have landed. */
export function landedUnits({ landed }: Transfer): number {
  return Object.values(landed).reduce((sum, { units }) => sum + units, 0)
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
    held + plannedOf(next).bytes > step.state.self.limits.bytesInFlightPerPeer
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
