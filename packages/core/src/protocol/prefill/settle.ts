/** Settling: nothing of a piece can touch memory any more, or none of this side's. */
import { finishIfLanded } from './complete.ts'
import { dropLoad, endLoad, pump, returnBay, returnCredit } from './piece.ts'
import type { Peer, Piece, PrefillStep, Sender, Transfer } from './state.ts'
import { sayDrained } from './transfer.ts'

export function onPieceSettled(step: PrefillStep, id: number): void {
  const piece = step.state.pieces.get(id)
  if (!piece) return
  if (piece.status === 'staged' && piece.load) {
    // It still has to be scattered.
    piece.load.settled = true
    releaseWrite(step, piece)
  } else {
    settle(step, piece)
  }
  pump(step, piece.transfer.peer)
}

/**
 * The engine that wrote it is closed, so that nothing reads the source pages any more. Whether everything has
 * landed it cannot say: only the target's own fence can, and `drained` is not said before.
 */
export function abandon(step: PrefillStep, piece: Piece): void {
  const { peer, generation } = piece.transfer
  const hasWritten = !piece.load || piece.load.posted
  if (hasWritten && generation === peer.generation) {
    piece.abandoned = true
    releaseSource(step, piece)
  } else {
    // The target has closed the engine that it was written into, or nothing was written.
    settle(step, piece)
  }
}

/**
 * The target has closed the engine that these pieces were written into. Nothing of them can land any more; what the
 * own engine still has to settle burdens a link that is closed, not the next one.
 */
export function onTargetRenewed(step: PrefillStep, peer: Peer): void {
  for (const piece of step.state.pieces.values()) {
    if (piece.transfer.peer !== peer) continue
    if (piece.abandoned) settle(step, piece)
    else returnCredit(piece)
  }
}

/** Those that were not posted, or have landed in a bay: nothing of them can land any more. */
export function dropQueued(step: PrefillStep, transfer: Transfer): void {
  for (const piece of [...transfer.loads.values()]) if (dropLoad(step, piece)) settle(step, piece)
  const { queue } = transfer.peer
  for (const piece of queue.filter((p) => p.transfer === transfer)) {
    queue.splice(queue.indexOf(piece), 1)
    settle(step, piece)
  }
}

export function settle(step: PrefillStep, piece: Piece): void {
  step.state.pieces.delete(piece.id)
  endLoad(piece)
  piece.transfer.unsettled--
  sayDrained(step, piece.transfer)
  if (!piece.abandoned) releaseSource(step, piece)
}

/** Source pages and credit of a piece that is over on this side. */
function releaseSource(step: PrefillStep, piece: Piece): void {
  releaseWrite(step, piece)
  piece.sender.unsettled--
  tellSettled(step, piece.sender)
  finishIfLanded(step, piece.sender)
}

function releaseWrite(step: PrefillStep, piece: Piece): void {
  returnCredit(piece)
  returnBay(step, piece)
}

export function tellSettled(step: PrefillStep, sender: Sender): void {
  if (sender.unsettled > 0 || sender.settledTold) return
  if (sender.phase !== 'success' && sender.phase !== 'failed') return
  sender.settledTold = true
  step.state.senders.delete(sender.id)
  step.out.push({ do: 'sender.settled', sender: sender.id })
}
