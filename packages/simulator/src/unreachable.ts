/**
 * Cells of the coverage table that no schedule may reach, each with its reason. Reaching one fails a run.
 * `*` stands for every kind, state or fault.
 */
interface Cell {
  readonly side: 'P' | 'D'
  readonly kinds: readonly string[]
  readonly states: readonly string[]
  readonly faults?: readonly string[]
  readonly reason: string
}

export const unreachable: readonly Cell[] = []

/** Why a cell cannot be reached, or undefined. */
export function reasonOf(
  side: string,
  kind: string,
  state: string,
  fault: string,
): string | undefined {
  return unreachable.find(
    (cell) =>
      cell.side === side &&
      has(cell.kinds, kind) &&
      has(cell.states, state) &&
      (cell.faults === undefined || has(cell.faults, fault)),
  )?.reason
}

function has(list: readonly string[], name: string): boolean {
  return list.includes('*') || list.includes(name)
}
