/**
 * For engines in which a write to a silent peer may never end (fence kind `engine`): until it settles
 * its source pages and credits stay taken. Closing the engine settles it; a fresh generation goes on.
 */
import { KvxError } from '@kvx/contract'
import { makeBays } from '../bays.ts'
import { openLink } from './peer.ts'
import { isStarved } from './piece.ts'
import { pair } from './room.ts'
import { failSender } from './sender.ts'
import { abandon } from './settle.ts'
import type { Piece, PrefillStep, Sender } from './state.ts'

export function watchStuck(step: PrefillStep): void {
  const { state, now } = step
  const { self } = state
  if (self.fence !== 'engine' || state.broken || state.recycle?.phase === 'closing') return
  const stuck = stuckPieces(step)
  if (stuck.length === 0) {
    if (state.recycle) goOn(step)
    return
  }
  if (!state.recycle) {
    const share = stuckShare(step, stuck)
    const isStarving = [...state.peers.values()].some((peer) => isStarved(step, peer, stuck))
    if (share <= self.limits.quarantineShare && running(step).length > 0 && !isStarving) return
    state.recycle = { phase: 'draining', deadline: now + self.deadlines.recycle }
  }
  const live = running(step)
  if (live.length > 0 && now < state.recycle.deadline) return
  for (const sender of live) {
    failSender(
      step,
      sender,
      new KvxError(
        'ERR_KVX_TRANSFER_FAILED',
        'The transfer engine had to be replaced because writes to a silent peer did not end. Try again.',
        { phase: 'transfer', peer: self.instance },
      ),
    )
  }
  state.recycle.phase = 'closing'
  step.out.push({ do: 'recycle' })
}

/** What was stuck has settled after all: the engine stays. */
function goOn(step: PrefillStep): void {
  step.state.recycle = undefined
  for (const room of step.state.rooms.values()) pair(step, room)
}

/** Writes that failed or were cancelled, and have not settled in time. */
function stuckPieces(step: PrefillStep): Piece[] {
  const since = step.now - step.state.self.deadlines.drain
  return [...step.state.pieces.values()].filter(
    ({ failedAt, abandoned }) => failedAt !== undefined && failedAt <= since && !abandoned,
  )
}

/** Share of the pages of a component that these pieces read, or of the bays; of all the largest. */
function stuckShare({ state: { self } }: PrefillStep, pieces: readonly Piece[]): number {
  const bays = pieces.filter(({ load }) => load?.bay).length / (self.staging?.bays ?? 1)
  const shares = new Map<string, number>()
  for (const { transfer, parts } of pieces) {
    for (const { component, layers, source } of parts) {
      const all = transfer.peer.pairing.layers.get(component) ?? []
      const read = all.filter((layer) => layer >= layers[0] && layer < layers[1])
      const pages = self.place.components[component]?.pages ?? 1
      const share = (source.length / pages) * (read.length / all.length)
      shares.set(component, (shares.get(component) ?? 0) + share)
    }
  }
  return Math.max(bays, ...shares.values())
}

/** Requests that use the engine. */
function running(step: PrefillStep): Sender[] {
  return [...step.state.senders.values()].filter(
    ({ phase }) => phase === 'paired' || phase === 'finishing',
  )
}

/**
 * The old engine is closed. What has not settled with it never will: the engine could not make sure that the target
 * has read what was sent to it, and closing another one would not help.
 */
export function onRecycled(step: PrefillStep, generation: string): void {
  const { state } = step
  state.bays = makeBays(state.self.staging)
  for (const piece of state.pieces.values()) {
    if (piece.status !== 'queued') abandon(step, piece)
  }
  state.generation = generation
  state.recycle = undefined
  // What waits goes on when its link is open.
  for (const peer of state.peers.values()) {
    peer.connecting = undefined
    if (peer.link !== 'lost') openLink(step, peer)
  }
}

export function onEngineFailed(step: PrefillStep, error: KvxError): void {
  step.state.broken = error
  for (const sender of step.state.senders.values()) failSender(step, sender, error)
}
