/**
 * Loads: pieces with short runs, each of which takes its way through a bay of decode. It is asked for, gathered into one
 * long run in staging memory of this side, written, and has landed when decode has scattered it. Without a bay it is written
 * run by run.
 */
import type { TransferPlan } from '@kvx/contract'
import { bayOffset } from '../bays.ts'
import { count } from '../keys.ts'
import type { MessageOf } from '../messages.ts'
import { hasLanded, post, postAsItIs, pump, returnBay, sayLoad } from './piece.ts'
import { failPiece } from './sender.ts'
import { settle } from './settle.ts'
import type { Load, Peer, Piece, PrefillEvent, PrefillStep, Transfer } from './state.ts'
import { seen } from './transfer.ts'

export function onBay(step: PrefillStep, peer: Peer, message: MessageOf<'bay'>): void {
  const piece = loadOf(peer, message)
  const { staging } = step.state.self
  if (!piece?.load?.bay || piece.status !== 'asking' || !staging) {
    count(step.state.dropped, 'bay not asked for')
    return
  }
  if (message.offset === undefined) {
    returnBay(step, piece)
    postAsItIs(step, piece)
    pump(step, peer)
    return
  }
  const { plan } = piece.planned ?? {}
  if (!plan) return
  piece.load.offset = message.offset
  piece.status = 'gathering'
  const offset = bayOffset(piece.load.bay, staging)
  step.out.push({ do: 'gather', piece: piece.id, plan, offset })
}

export function onGathered(
  step: PrefillStep,
  { piece: id, error }: PrefillEvent & { type: 'load.gathered' },
): void {
  const piece = step.state.pieces.get(id)
  if (!piece?.load?.bay || piece.load.posted) return
  if (error) failPiece(step, piece, error)
  if (piece.failedAt === undefined) {
    piece.load.posted = true
    post(step, piece, longRun(step, piece, piece.load))
    return
  }
  settle(step, piece)
  pump(step, piece.transfer.peer)
}

/** From this side's staging memory to decode's. */
function longRun(step: PrefillStep, { transfer, planned }: Piece, load: Load): TransferPlan {
  const { staging } = step.state.self
  const from = staging && load.bay ? bayOffset(load.bay, staging) : 0
  const bytes = planned?.bytes ?? 0
  const regions = [staging?.region ?? 0, transfer.peer.regions.length]
  return {
    lanes: Float64Array.of(...regions, from, load.offset, bytes, bytes, bytes, 1, 0, 0),
    groups: Int32Array.of(0, 0, 1),
    blocks: Int32Array.of(0, 1, 0, 1),
  }
}

export function onScattered(step: PrefillStep, peer: Peer, message: MessageOf<'scattered'>): void {
  const piece = loadOf(peer, message)
  if (piece?.status !== 'staged') {
    count(step.state.dropped, 'scattered')
    return
  }
  hasLanded(step, piece)
  if (piece.load?.settled) settle(step, piece)
  pump(step, peer)
}

/** What was said of loads while no connection stood is lost. */
export function repeatLoads(step: PrefillStep, { loads }: Transfer): void {
  for (const piece of loads.values()) sayLoad(step, piece)
}

/** A load that has found no bay of this side for so long is written as it is. */
export function watchLoad(step: PrefillStep, piece: Piece): void {
  if (piece.status !== 'queued' || !piece.load || step.now < piece.load.patience) return
  piece.load = undefined
  pump(step, piece.transfer.peer)
}

function loadOf(peer: Peer, { ep, load }: MessageOf<'bay' | 'scattered'>): Piece | undefined {
  return seen(peer, ep)?.loads.get(load)
}
