/** Every state that a world can come to, the nearest first; and whether from each of them everything ends. */
import type { Rows } from './cells.ts'
import { movesOf, perform } from './moves.ts'
import { Numbers } from './numbers.ts'
import { unrest } from './rest.ts'
import type { Spec } from './spec.ts'
import { Table } from './table.ts'
import { Violation } from './violation.ts'
import { Universe, width } from './world.ts'

export interface Explored {
  readonly world: string
  readonly faults: number
  readonly states: number
  readonly transitions: number
  /** Actions from the beginning to the furthest state. */
  readonly depth: number
  readonly seconds: number
  /** States of the two reducers. */
  readonly locals: readonly [prefill: number, decode: number]
  /** Why not all states were seen; undefined: they were. */
  readonly bound: 'memory' | 'states' | 'walks' | undefined
  readonly found: Found | undefined
  /** Of the simulator's coverage table. */
  readonly rows: Rows
}

export interface Found {
  readonly check: string
  readonly text: string
  /** Labels of the moves that lead there; the last one is what was wrong, unless nothing ends. */
  readonly schedule: readonly string[]
}

export interface Bounds {
  /** Bytes of heap and tables. */
  readonly memory: number
  readonly states: number
}

/** @param progress called now and then */
export function explore(
  spec: Spec,
  bounds: Bounds,
  progress: (states: number, depth: number) => void = () => undefined,
): Explored {
  const begun = performance.now()
  const universe = new Universe(spec)
  const table = new Table(width)
  const parents = new Numbers()
  /** Which move of the parent it was. */
  const steps = new Numbers()
  const depths = new Numbers()
  /** What follows when no fault happens. */
  const next = new Numbers()
  /** 1: nothing is left to end. */
  const rests = new Numbers()
  const tuple = new Uint32Array(width)
  let transitions = 0
  let bound: Explored['bound']
  let found: Found | undefined

  universe.write(universe.beginning(), tuple)
  table.add(tuple)
  for (const list of [parents, steps, depths]) list.push(0)
  let state = 0
  for (; state < table.size && !found; state++) {
    if (state % 4_096 === 0) {
      progress(table.size, depths.at(state))
      if (memoryOf(table) > bounds.memory) bound = 'memory'
      if (bound) break
    }
    if (table.size > bounds.states) {
      bound = 'states'
      break
    }
    visit(state, false)
  }
  const reached = { states: table.size, transitions, depth: depths.at(table.size - 1) }
  // What was come to last has not been left yet: without a fault everything must end from there as well.
  for (; bound && !found && state < table.size && memoryOf(table) < 1.2 * bounds.memory; state++)
    visit(state, true)
  if (!found) {
    const endless = findEndless(next, rests)
    if (endless) found = foundEndless(endless)
  }
  return {
    ...{ world: spec.name, faults: spec.most, ...reached },
    seconds: (performance.now() - begun) / 1_000,
    ...{ locals: universe.locals, bound, found, rows: universe.ground.cells.rows },
  }

  /** Does what may happen next there; or only what happens when no fault does. */
  function visit(from: number, isCalm: boolean): void {
    const world = universe.read(table.tuples, from * width)
    const here = universe.turn(world)
    rests.push(unrest(here) === undefined ? 1 : 0)
    let calm = from
    for (const [i, move] of movesOf(here).entries()) {
      if (isCalm && (i > 0 || move.isFault)) break
      const turn = universe.turn(world)
      try {
        perform(turn, move)
      } catch (cause) {
        if (!(cause instanceof Violation)) throw cause
        const schedule = [...scheduleTo(from), move.label()]
        found = { check: cause.check, text: cause.message, schedule }
        break
      }
      universe.write(turn, tuple)
      const before = table.size
      const to = table.add(tuple)
      transitions++
      if (i === 0 && !move.isFault) calm = to
      if (table.size === before) continue
      parents.push(from)
      steps.push(i)
      depths.push(depths.at(from) + 1)
    }
    next.push(calm)
  }

  /** Labels of the moves that lead to a state. */
  function scheduleTo(end: number): string[] {
    const path: number[] = []
    for (let at = end; at > 0; at = parents.at(at)) path.push(at)
    return path.reverse().map((at) => {
      const from = universe.turn(universe.read(table.tuples, parents.at(at) * width))
      return movesOf(from)[steps.at(at)]!.label()
    })
  }

  function foundEndless({ from, cycle }: Endless): Found {
    const turn = universe.turn(universe.read(table.tuples, cycle * width))
    return {
      check: 'not ended though nothing is wrong any more',
      text: `${unrest(turn) ?? ''}; after this schedule no fault happens any more`,
      schedule: scheduleTo(from),
    }
  }
}

interface Endless {
  /** The nearest state from which nothing ends. */
  readonly from: number
  /** A state that comes again and again. */
  readonly cycle: number
}

/** A state from which, without another fault, one comes for ever to states in which something has not ended. */
function findEndless(next: Numbers, rests: Numbers): Endless | undefined {
  /** 0: not seen; 1: on the way from a state; 2: ends; else 3 and more: the restless state that it comes to, plus 3. */
  const ends = new Numbers()
  for (let state = 0; state < next.size; state++) ends.push(0)
  let first: Endless | undefined
  for (let state = 0; state < next.size; state++) {
    const path: number[] = []
    let at = state
    for (; at < next.size && ends.at(at) === 0; at = next.at(at)) {
      ends.set(at, 1)
      path.push(at)
    }
    // What follows from the last ones nobody knows, where memory was at its end.
    let end = at < next.size ? ends.at(at) : 2
    if (end === 1) {
      const cycle = path.slice(path.indexOf(at))
      const restless = cycle.find((one) => rests.at(one) === 0)
      end = restless === undefined ? 2 : restless + 3
    }
    for (const one of path) ends.set(one, end)
    if (end > 2) first ??= { from: state, cycle: end - 3 }
  }
  return first
}

function memoryOf(table: Table): number {
  return process.memoryUsage().heapUsed + table.bytes * 2
}
