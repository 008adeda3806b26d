/**
 * Which rows of the simulator's coverage table a small world comes to: a cell that is held to be unreachable there must not be
 * reached here either.
 */
import { faultNames, reasonOf } from '@kvx/simulator'

export class Cells {
  readonly #calm = new Set<string>()
  readonly #hit = new Set<string>()
  readonly #cells = new Set<string>()

  /**
   * @param isHit a fault has happened
   * @param columns of those that have, as far as they concern this message
   */
  add(row: string, isHit: boolean, columns: readonly Column[]): void {
    ;(isHit ? this.#hit : this.#calm).add(row)
    for (const column of columns) this.#cells.add(`${row}, ${column}`)
  }

  addAll({ calm, hit, cells }: Rows): void {
    for (const row of calm) this.#calm.add(row)
    for (const row of hit) this.#hit.add(row)
    for (const cell of cells) this.#cells.add(cell)
  }

  /** Rows, of worlds before any fault and after one. */
  get rows(): Rows {
    return {
      calm: [...this.#calm].sort(),
      hit: [...this.#hit].sort(),
      cells: [...this.#cells].sort(),
    }
  }
}

export interface Rows {
  readonly calm: readonly string[]
  readonly hit: readonly string[]
  /** With the column of a fault, where these are told apart. */
  readonly cells: readonly string[]
}

export type Column = (typeof faultNames)[number]

/** Of the rows that were reached those that must not be, each in a sentence. After a fault the column is whichever it was. */
export function wrongRows({ calm, hit }: Rows): string[] {
  const reasonsOf = (row: string) => {
    const [side = '', kind = '', ...state] = row.split(' ')
    return faultNames.map((fault) => reasonOf(side, kind, state.join(' '), fault))
  }
  const say = (row: string, when: string, reason: string) =>
    `'${row}' was reached ${when}; it is held to be unreachable: ${reason}`
  return [
    ...calm.flatMap((row) => {
      const [reason] = reasonsOf(row)
      return reason === undefined ? [] : [say(row, 'without a fault', reason)]
    }),
    ...hit.flatMap((row) => {
      const [, ...reasons] = reasonsOf(row)
      const [first] = reasons
      return first === undefined || reasons.includes(undefined)
        ? []
        : [say(row, 'after a fault', first)]
    }),
  ]
}
