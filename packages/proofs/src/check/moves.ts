/** Everything that may happen next in a world, in an order that never changes. */
import { engineFaults, engineMoves, forgetOrphans } from './engines.ts'
import { hostFaults, hostMoves, newJob, spoil } from './hosts.ts'
import { networkFaults, networkMoves } from './network.ts'
import { passing, processFaults, recoveries, ticks } from './processes.ts'
import { unrest } from './rest.ts'
import type { Move, Turn } from './turn.ts'

/**
 * The first one is what happens when no fault does: all others get their turn, as each of them ends by itself. Time passes
 * only when nothing else can be done; whatever may wait may be waited for.
 */
export function movesOf(turn: Turn): Move[] {
  const moves: Move[] = []
  recoveries(turn, moves)
  networkMoves(turn, moves)
  engineMoves(turn, moves)
  hostMoves(turn, moves)
  ticks(turn, moves)
  const isBusy = moves.some(({ canWait }) => !canWait)
  if (!isBusy) {
    nextRequest(turn, moves)
    moves.push(...passing(turn))
  }
  if (turn.cast.faultsLeft === 0) return moves
  const faults: Move[] = []
  networkFaults(turn, faults)
  engineFaults(turn, faults)
  hostFaults(turn, faults)
  processFaults(turn, faults)
  if (isBusy && turn.spec.faults.includes('delay'))
    for (const { label, run } of passing(turn))
      faults.push({ label: () => `FAULT ${label()}, and nothing else is done`, isFault: true, run })
  return [...moves, ...faults]
}

function nextRequest(turn: Turn, moves: Move[]): void {
  const { spec, books } = turn
  if (!spec.oneByOne || books.jobs.length >= spec.jobs || unrest(turn) !== undefined) return
  moves.push({
    label: () => `the router sends request ${String(books.jobs.length)}`,
    canWait: true,
    run: (t) => {
      t.setBooks({ jobs: [...books.jobs, newJob(spec, books.jobs.length)] })
    },
  })
}

export function perform(turn: Turn, move: Move): void {
  if (move.isFault) {
    turn.cast = { ...turn.cast, faultsLeft: turn.cast.faultsLeft - 1 }
    if (!move.isHarmless) spoil(turn)
    if (move.column) turn.hit(move.column)
  }
  move.run(turn)
  forgetOrphans(turn)
}
