/**
 * Pieces: what one write moves to one decode rank, from its place in the queue until its bytes have landed. One with short
 * runs is cut into loads, each a piece of its own, which take their way through bays: see `load.ts`.
 */
import { KvxError, type TransferPlan } from '@kvx/contract'
import type { RequestPart, TokenPart } from '../../plan/index.ts'
import { rankName } from '../../share/index.ts'
import { giveBay, loadsAtOnce, takeBay } from '../bays.ts'
import type { PageLists } from '../messages.ts'
import { cut, hasShortRuns, type Planned } from './cut.ts'
import { tell } from './send.ts'
import type { Load, Peer, Piece, PiecePart, PrefillStep, Transfer } from './state.ts'

export function enqueue(
  step: PrefillStep,
  piece: Pick<Piece, 'transfer' | 'sender' | 'write' | 'parts' | 'after'>,
): void {
  piece.transfer.peer.queue.push(addPiece(step, piece))
}

function addPiece(
  step: PrefillStep,
  given: Pick<Piece, 'transfer' | 'sender' | 'write' | 'parts' | 'after'>,
): Piece {
  const { transfer, sender, write, parts, after } = given
  const queued: Piece = {
    ...{ transfer, sender, write, parts, after },
    id: step.state.nextPiece++,
    planned: undefined,
    load: undefined,
    credit: 0,
    status: 'queued',
    deadline: Infinity,
    failedAt: undefined,
    abandoned: false,
  }
  step.state.pieces.set(queued.id, queued)
  transfer.unsettled++
  sender.unsettled++
  return queued
}

/** For what waits for a bay of this side. */
export function pumpAll(step: PrefillStep): void {
  for (const peer of step.state.peers.values()) if (peer.queue.length > 0) pump(step, peer)
}

/**
 * Sends off what has a credit, of each transfer in turn. A piece whose pages are not known yet, or a load without a bay, holds up
 * nobody else's.
 */
export function pump(step: PrefillStep, peer: Peer): void {
  if (peer.link !== 'open' || step.state.recycle?.phase === 'closing') return
  while (sendNext(step, peer));
}

function sendNext(step: PrefillStep, peer: Peer): boolean {
  const { bays, self } = step.state
  for (const piece of peer.queue) {
    if (piece.transfer.pages === undefined) continue
    if (!piece.planned && cutIfShort(step, piece)) return true
    const { load } = piece
    if (load && isWindowFull(piece.transfer)) continue
    const { bytes } = plannedOf(piece)
    if (peer.inFlight > 0 && peer.inFlight + bytes > self.limits.bytesInFlightPerPeer) return false
    if (load && !(load.bay = takeBay(bays))) {
      load.patience = Math.min(load.patience, step.now + patienceOf(piece))
      continue
    }
    takeFromQueue(peer, piece)
    piece.credit = bytes
    peer.inFlight += bytes
    takeOff(step, piece.transfer)
    if (load) ask(step, piece, load)
    else postAsItIs(step, piece)
    handedOver(step, piece)
    return true
  }
  return false
}

/**
 * What else of its transfer waits goes behind the others: one long request, cut into many loads, must not keep short ones
 * waiting until their decode takes prefill for lost.
 */
function takeFromQueue(peer: Peer, { id, transfer }: Piece): void {
  const others: Piece[] = []
  const own: Piece[] = []
  for (const one of peer.queue) {
    if (one.id !== id) (one.transfer === transfer ? own : others).push(one)
  }
  others.push(...own)
  peer.queue.splice(0, Infinity, ...others)
}

/** How long a load waits for a bay before it is written as it is: enough is left of its deadline then. */
function patienceOf({ sender }: Piece): number {
  return Math.ceil(sender.deadlines.transfer / 4)
}

/** Decode remembers the loads of a transfer from the first that has not ended on. */
function isWindowFull({ loads, lastLoad }: Transfer): boolean {
  const [oldest] = loads.keys()
  return oldest !== undefined && lastLoad + 1 - oldest >= loadsAtOnce
}

/** Puts loads in its place when its runs are short. Answers whether the queue is another one now. */
function cutIfShort(step: PrefillStep, piece: Piece): boolean {
  const { transfer, sender, write, parts } = piece
  const { staging } = step.state.self
  const { queue, staging: target } = transfer.peer
  // What waits for a device, only an engine that knows the device can read.
  if (!staging || !target || piece.after !== undefined) return false
  if (!hasShortRuns(plannedOf(piece), staging)) return false
  const most = Math.min(staging.bayBytes, target.bayBytes)
  const cuts = cut(parts, (some) => planOf(transfer, some), most)
  const pieces = cuts.map(({ parts: some, planned }, i) => {
    const one = i === 0 ? piece : addPiece(step, { ...piece, parts: some })
    one.parts = some
    one.planned = planned
    one.load = planned.bytes > most ? undefined : unasked()
    return one
  })
  queue.splice(queue.indexOf(piece), 1, ...pieces)
  const waiting = sender.writes.get(write)
  if (waiting !== undefined) sender.writes.set(write, waiting + pieces.length - 1)
  return true
}

function unasked(): Load {
  return { number: 0, bay: undefined, offset: 0, patience: Infinity, posted: false, settled: false }
}

/** Its plan, made once decode's pages are known. */
function plannedOf(piece: Piece): Planned {
  piece.planned ??= planOf(piece.transfer, piece.parts)
  return piece.planned
}

function planOf({ peer, prompt, pages = {} }: Transfer, parts: readonly PiecePart[]): Planned {
  const planned = parts.map((part): TokenPart | RequestPart => planPart(part, { prompt, pages }))
  const { plan, moved } = peer.pairing.plan(planned)
  return { plan, moved, bytes: moved.reduce((sum, { bytes }) => sum + bytes, 0) }
}

function planPart(
  { component, layers, first, source }: PiecePart,
  { prompt, pages }: { prompt: Transfer['prompt']; pages: PageLists },
): TokenPart | RequestPart {
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

/** The host is told when all pieces of a write are on their way. */
function handedOver(step: PrefillStep, piece: Piece): void {
  const { sender, write } = piece
  const left = (sender.writes.get(write) ?? 1) - 1
  if (left > 0) {
    sender.writes.set(write, left)
    return
  }
  sender.writes.delete(write)
  if (write > 0) step.out.push({ do: 'sender.posted', sender: sender.id, write })
}

function ask(step: PrefillStep, piece: Piece, load: Load): void {
  const { transfer } = piece
  load.number = ++transfer.lastLoad
  transfer.loads.set(load.number, piece)
  piece.status = 'asking'
  hurry(step, piece)
  sayLoad(step, piece)
}

/** Says of a load what decode has to answer; again when that may have been lost. */
export function sayLoad(step: PrefillStep, piece: Piece): void {
  const { transfer, load, parts, status } = piece
  if (!load || transfer.phase !== 'paired') return
  if (status === 'asking') {
    const { bytes } = plannedOf(piece)
    tell(step, transfer, { k: 'stage', load: load.number, bytes, ms: patienceOf(piece) })
  } else if (status === 'staged') {
    tell(step, transfer, { k: 'staged', load: load.number, parts: parts.map(wirePart) })
  }
}

function wirePart({ component, layers, first, source }: PiecePart) {
  const range: [number, number] = [...layers]
  const count = source.length
  return { component, layers: range, count, ...(first === undefined ? {} : { first }) }
}

/** Without a bay, run by run. */
export function postAsItIs(step: PrefillStep, piece: Piece): void {
  endLoad(piece)
  piece.load = undefined
  post(step, piece, plannedOf(piece).plan)
}

export function post(step: PrefillStep, piece: Piece, plan: TransferPlan): void {
  const { transfer, sender } = piece
  piece.status = 'posted'
  hurry(step, piece)
  step.out.push({
    do: 'post',
    piece: piece.id,
    peer: transfer.peer.incarnation,
    generation: transfer.generation,
    plan,
    deadlineMs: sender.deadlines.transfer,
    after: piece.after,
  })
}

/** What comes next has to be done by the deadline. */
function hurry(step: PrefillStep, piece: Piece): void {
  piece.deadline = step.now + piece.sender.deadlines.transfer
}

export function onPieceDone(step: PrefillStep, id: number): void {
  const piece = step.state.pieces.get(id)
  if (piece?.status !== 'posted') return
  if (piece.load && piece.transfer.phase === 'paired') {
    piece.status = 'staged'
    hurry(step, piece)
    sayLoad(step, piece)
  } else {
    hasLanded(step, piece)
  }
}

/** Every byte of it lies in its page. */
export function hasLanded(step: PrefillStep, piece: Piece): void {
  const { transfer, load } = piece
  piece.status = 'done'
  land(step, transfer)
  for (const [i, { component }] of piece.parts.entries()) {
    const { units, bytes } = piece.planned?.moved[i] ?? { units: 0, bytes: 0 }
    const part = (transfer.landed[component] ??= { units: 0, bytes: 0 })
    part.units += units
    part.bytes += bytes
    if (load) transfer.stagedBytes += bytes
  }
  endLoad(piece)
  if (transfer.phase === 'paired')
    tell(step, transfer, { k: 'progress', units: landedUnits(transfer) })
}

/** Tokens, or slots, times layers that have landed. */
export function landedUnits({ landed }: Transfer): number {
  return Object.values(landed).reduce((sum, { units }) => sum + units, 0)
}

/** Its transfer has failed. Answers whether nothing of it is on its way, so that it is over. */
export function dropLoad(step: PrefillStep, piece: Piece): boolean {
  if (piece.status !== 'asking' && piece.status !== 'staged') return false
  const isOver = piece.status === 'asking' || piece.load?.settled === true
  piece.status = 'done'
  land(step, piece.transfer)
  return isOver
}

/** Decode need not be told of it any more. */
export function endLoad({ transfer, load }: Piece): void {
  if (load) transfer.loads.delete(load.number)
}

/** The error names who is concerned: engines know addresses only. Returns undefined when the piece has ended before. */
export function endPiece(step: PrefillStep, piece: Piece, error: KvxError): KvxError | undefined {
  if (piece.status !== 'posted' && piece.status !== 'gathering') return undefined
  piece.status = 'failed'
  piece.failedAt = step.now
  land(step, piece.transfer)
  return aboutPiece(piece, error)
}

export function aboutPiece({ transfer: { peer } }: Piece, error: KvxError): KvxError {
  const { code, message, phase = 'transfer' } = error
  const { instance, rank } = peer
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

/** Nothing is gathered there any more, and nothing read. */
export function returnBay(step: PrefillStep, { load }: Piece): void {
  if (!load?.bay) return
  giveBay(load.bay)
  load.bay = undefined
  step.isBayFree = true
}
