/** Settling: nothing of a piece can touch memory any more, or none of this side's. */
import { finishIfLanded } from './complete.ts'
import { pump, returnCredit } from './piece.ts'
import type { Peer, Piece, PrefillStep, Sender, Transfer } from './state.ts'
import { sayDrained } from './transfer.ts'

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
  for (const piece of step.state.pieces.values()) {
    if (piece.transfer.peer !== peer) continue
    if (piece.abandoned) settle(step, piece)
    else returnCredit(piece)
  }
}

/** Those that were not posted: nothing of them can land. */
export function dropQueued(step: PrefillStep, transfer: Transfer): void {
  const { queue } = transfer.peer
  for (const piece of queue.filter((p) => p.transfer === transfer)) {
    queue.splice(queue.indexOf(piece), 1)
    settle(step, piece)
  }
}

function settle(step: PrefillStep, piece: Piece): void {
  step.state.pieces.delete(piece.id)
  piece.transfer.unsettled--
  sayDrained(step, piece.transfer)
  if (!piece.abandoned) releaseSource(step, piece)
}

/** Source pages and credit of a piece that is over on this side. */
function releaseSource(step: PrefillStep, piece: Piece): void {
  returnCredit(piece)
  piece.sender.unsettled--
  tellSettled(step, piece.sender)
  finishIfLanded(step, piece.sender)
}

export function tellSettled(step: PrefillStep, sender: Sender): void {
  if (sender.unsettled > 0 || sender.settledTold) return
  if (sender.phase !== 'success' && sender.phase !== 'failed') return
  sender.settledTold = true
  step.state.senders.delete(sender.id)
  step.out.push({ do: 'sender.settled', sender: sender.id })
}
