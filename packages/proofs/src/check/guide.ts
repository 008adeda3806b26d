/** Schedules that are led to a seldom state: at each step what is wanted next, and until it can happen what happens by itself. */
import { Cells, type Rows } from './cells.ts'
import { movesOf, perform } from './moves.ts'
import type { World } from './parts.ts'
import type { Spec } from './spec.ts'
import { Turn } from './turn.ts'
import { Universe } from './world.ts'

export interface Guide {
  /** Beginnings of labels of moves, one to be done after the other. */
  readonly wanted: readonly string[]
  /** Beginnings of labels of moves that are not done unless they are wanted. */
  readonly avoided: readonly string[]
}

export interface Led {
  readonly rows: Rows
  readonly schedule: readonly string[]
  readonly world: World
  readonly universe: Universe
}

/** Moves after which what is wanted counts as impossible. */
const patience = 400

/** @throws Error for something wanted that does not happen */
export function lead(spec: Spec, { wanted, avoided }: Guide): Led {
  const universe = new Universe({ ...spec, tellsFaults: true })
  const cells = new Cells()
  const ground = { ...universe.ground, cells }
  const schedule: string[] = []
  let world: World = universe.beginning()
  let waited = 0
  const left = [...wanted]
  for (let next = left.shift(); next !== undefined;) {
    const turn = new Turn(ground, world)
    const named = movesOf(turn).map((move) => ({ move, label: move.label() }))
    const goal = named.find(({ label }) => label.startsWith(next ?? ''))
    const isAvoided = (label: string) => avoided.some((one) => label.startsWith(one))
    const step = goal ?? named.find(({ move, label }) => !move.isFault && !isAvoided(label))
    if (!step || waited++ > patience)
      throw new Error(`'${next}' does not happen in ${spec.name} after\n${schedule.join('\n')}`)
    schedule.push(step.label)
    perform(turn, step.move)
    world = turn
    if (!goal) continue
    next = left.shift()
    waited = 0
  }
  return { rows: cells.rows, schedule, world, universe }
}
