/** Schedules of a world that is too large for all of them: drawn one after another, each until everything has ended. */
import { Random } from '@kvx/simulator'
import { Cells, type Rows } from './cells.ts'
import type { Explored, Found } from './explore.ts'
import { movesOf, perform } from './moves.ts'
import type { World } from './parts.ts'
import { unrest } from './rest.ts'
import type { Spec } from './spec.ts'
import { Turn, type Ground, type Move } from './turn.ts'
import { Violation } from './violation.ts'
import { Universe } from './world.ts'

/** Moves of one walk; then come those after which no fault happens, and within which all must have ended. */
const most = 160
const afterwards = 1_000
/** How often a fault happens where one may. */
const share = 0.06
/** States of the reducers after which what was known of them is forgotten. */
const known = 60_000

/**
 * @param from seed of the first walk
 * @param onWalk called after each with the rows that it has come to
 */
export function walk(
  spec: Spec,
  walks: number,
  from: number,
  onWalk: (seed: number, rows: Rows) => void = () => undefined,
): Explored {
  const begun = performance.now()
  let universe = new Universe(spec)
  const all = new Cells()
  let transitions = 0
  let depth = 0
  let done = 0
  let found: Found | undefined
  for (let seed = from; seed < from + walks && !found; seed++) {
    if (Math.max(...universe.locals) > known) universe = new Universe(spec)
    const cells = new Cells()
    found = walkOnce(new Random(seed), { ...universe.ground, cells })
    all.addAll(cells.rows)
    onWalk(seed, cells.rows)
    done++
  }
  return {
    ...{ world: spec.name, faults: spec.most, states: done, transitions, depth },
    seconds: (performance.now() - begun) / 1_000,
    ...{ locals: universe.locals, bound: 'walks', found, rows: all.rows },
  }

  function walkOnce(random: Random, ground: Ground): Found | undefined {
    const schedule: string[] = []
    let world: World = universe.beginning()
    try {
      for (let length = 0; length < most + afterwards; length++) {
        const turn = new Turn(ground, world)
        const moves = movesOf(turn)
        const isOver = length >= most
        if (isOver && unrest(turn) === undefined) return undefined
        const move = isOver ? moves.find(({ isFault }) => !isFault) : drawn(random, moves)
        if (!move) return undefined
        schedule.push(move.label())
        depth = Math.max(depth, schedule.length)
        transitions++
        perform(turn, move)
        world = turn
      }
    } catch (cause) {
      if (!(cause instanceof Violation)) throw cause
      return { check: cause.check, text: cause.message, schedule }
    }
    return {
      check: 'not ended though nothing is wrong any more',
      text: unrest(new Turn(ground, world)) ?? '',
      schedule: schedule.slice(0, most),
    }
  }
}

function drawn(random: Random, moves: readonly Move[]): Move | undefined {
  const faults = moves.filter(({ isFault }) => isFault)
  const others = moves.filter(({ isFault }) => !isFault)
  return random.pick(faults.length > 0 && random.chance(share) ? faults : others)
}
