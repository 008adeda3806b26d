/**
 * Guided generation: schedules that came close to a cell of the coverage table which few come to are changed a little and run
 * again, with a fault before that the cell asks for.
 */
import type { FenceKind } from '@kvx/contract'
import { Coverage, universe, type CoverageRows } from '../checks/coverage.ts'
import { reasonOf } from '../checks/unreachable.ts'
import { faultNames, type FaultName } from '../shape/faults.ts'
import { Random } from '../shape/random.ts'
import type { Action, ActionKind } from '../world/actions.ts'
import { addResult, noTotals, type Filter, type Totals } from './job.ts'
import { runSchedule } from './schedule.ts'

/** Actions after which a cell of this column can count. */
const bringers: Readonly<Record<FaultName, readonly ActionKind[]>> = {
  none: [],
  reconnect: ['lost connection'],
  restart: ['crash', 'crash of an instance'],
  freeze: ['freeze', 'slow process'],
  partition: ['partition'],
  engine: ['write fails', 'connect fails'],
  recycle: ['write fails', 'freeze', 'partition'],
  abort: ['abort of prefill', 'abort of decode'],
  bootstrap: ['bootstrap unreachable', 'bootstrap restarts'],
}
const faults = [...new Set(Object.values(bringers).flat())]

interface Cell {
  readonly row: string
  readonly fault: number
}

/** What is changed and run again. */
interface Known {
  readonly fence: FenceKind
  readonly seed: number
  readonly actions: readonly Action[]
  /** Moment at which its faults stop. */
  readonly horizon: number
}

/** Kept of each row and kind of fence; the latest replace the others. */
const keptOfRow = 16
/** Actions of a schedule; from more, any are left out. */
const mostActions = 16
/** Share of schedules that are drawn as always: what is changed must come from somewhere. */
const drawn = 0.25
/** Share of the others that aim at a cell to which none has come. */
const atNever = 0.6

const cells: readonly Cell[] = universe.flatMap(({ side, kind, state }) =>
  faultNames.flatMap((name, fault) =>
    reasonOf(side, kind, state, name) === undefined
      ? [{ row: `${side} ${kind} ${state}`, fault }]
      : [],
  ),
)

export class Aim {
  readonly #filter: Filter
  readonly #coverage = new Coverage()
  /** Of each row schedules that came to it, by kind of fence. */
  readonly #known = new Map<string, Map<FenceKind, Known[]>>()
  #rows: CoverageRows = {}

  constructor(filter: Filter) {
    this.#filter = filter
  }

  /** Runs `count` schedules; `from` draws them. */
  run(from: number, count: number): Totals {
    const totals = noTotals()
    const all = new Coverage()
    for (let seed = from; seed < from + count; seed++) {
      const random = new Random(seed ^ 0x2545f491)
      const known = random.chance(drawn) ? undefined : this.#aimed(random)
      const coverage = new Coverage()
      const { actions } = known ?? {}
      const result = runSchedule({
        ...{ ...this.#filter, coverage, seed: known?.seed ?? seed },
        ...(actions && { actions }),
      })
      addResult(totals, result, actions)
      const rows = coverage.rows()
      all.add(rows)
      this.#learn(rows, {
        ...{ seed: result.seed, actions: result.actions },
        ...{ horizon: result.shape.horizon, fence: result.shape.fence },
      })
    }
    totals.coverage = all.rows()
    return totals
  }

  #learn(rows: CoverageRows, known: Known): void {
    this.#coverage.add(rows)
    this.#rows = this.#coverage.rows()
    for (const row of Object.keys(rows)) {
      const byFence = this.#known.get(row) ?? new Map<FenceKind, Known[]>()
      const kept = byFence.get(known.fence) ?? []
      if (kept.push(known) > keptOfRow) kept.shift()
      byFence.set(known.fence, kept)
      this.#known.set(row, byFence)
    }
  }

  /** A changed schedule that may come to one of the cells that few have come to. */
  #aimed(random: Random): Known | undefined {
    const count = ({ row, fault }: Cell) => this.#rows[row]?.[fault] ?? 0
    const never = random.chance(atNever) ? cells.filter((cell) => count(cell) === 0) : []
    // Of a few cells the one that the fewest have come to.
    const some = Array.from({ length: 24 }, () => random.one(cells))
    const target =
      never.length > 0
        ? random.one(never)
        : some.reduce((least, cell) => (count(cell) < count(least) ? cell : least))
    const wanted = faultNames[target.fault]!
    const byFence = this.#known.get(target.row) ?? this.#neighbours(random, target.row)
    // Only such an engine is ever replaced.
    const close =
      (wanted === 'recycle' ? byFence?.get('engine') : undefined) ??
      [...(byFence?.values() ?? [])].flat()
    const known = close.length > 0 ? random.one(close) : undefined
    return known && { ...known, actions: changed(random, known, wanted) }
  }

  /** Of a row to which none has come: the same message in another state, or another message in the same. */
  #neighbours(random: Random, row: string): ReadonlyMap<FenceKind, readonly Known[]> | undefined {
    const [side, kind, ...state] = row.split(' ')
    const isClose = ([other]: readonly [string, unknown]) => {
      const [itsSide, itsKind, ...itsState] = other.split(' ')
      return itsSide === side && (itsKind === kind || String(itsState) === String(state))
    }
    const close = [...this.#known].filter(isClose)
    return close.length === 0 ? undefined : random.one(close)[1]
  }
}

/** A few changes, and most often the fault that is wanted, early or beside something else that happens. */
function changed(random: Random, { actions, horizon }: Known, wanted: FaultName): Action[] {
  const list = [...actions]
  const within = (at: number) => Math.max(1, Math.min(horizon, at))
  const draw = (kinds: readonly ActionKind[]): Action => {
    const near = list.length > 0 && random.chance(0.5) ? random.one(list).at : 0
    const at = within(near + random.between(near > 0 ? -120 : 1, 120))
    return { at, kind: random.one(kinds), seed: Math.floor(random.next() * 2 ** 32) }
  }
  if (bringers[wanted].length > 0 && random.chance(0.8)) list.push(draw(bringers[wanted]))
  for (let changes = random.between(0, 3); changes > 0; changes--) {
    const which = random.between(0, Math.max(0, list.length - 1))
    const action = list[which]
    if (!action || random.chance(0.3)) list.push(draw(faults))
    else if (random.chance(0.25)) list.splice(which, 1)
    else if (random.chance(0.5))
      list[which] = { ...action, at: within(action.at + random.between(-80, 80)) }
    else list[which] = { ...action, seed: Math.floor(random.next() * 2 ** 32) }
  }
  while (list.length > mostActions) list.splice(random.between(0, list.length - 1), 1)
  return list.sort((a, b) => a.at - b.at)
}
