import { groupWidth } from '@kvx/contract'

/** Rows of `TransferPlan.groups` as they grow: pages that are consecutive on both sides share one. */
export class GroupList {
  #rows: Int32Array
  #end = 0
  #nextSource = -1
  #nextDestination = -1

  /** @param pages how many are probably added: most often there is no need to grow */
  constructor(pages: number) {
    this.#rows = new Int32Array(Math.max(1, pages) * groupWidth)
  }

  /** Rows so far. */
  get length(): number {
    return this.#end / groupWidth
  }

  /** The next page begins a row of its own. */
  cut(): void {
    this.#nextSource = -1
  }

  add(source: number, destination: number): void {
    if (source === this.#nextSource && destination === this.#nextDestination) {
      const count = this.#end - 1
      this.#rows[count] = (this.#rows[count] ?? 0) + 1
    } else {
      if (this.#end === this.#rows.length) this.#grow()
      this.#rows[this.#end] = source
      this.#rows[this.#end + 1] = destination
      this.#rows[this.#end + 2] = 1
      this.#end += groupWidth
    }
    this.#nextSource = source + 1
    this.#nextDestination = destination + 1
  }

  /** To be asked for once, at last. */
  rows(): Int32Array {
    return this.#rows.subarray(0, this.#end)
  }

  #grow(): void {
    const rows = new Int32Array(this.#rows.length * 2)
    rows.set(this.#rows)
    this.#rows = rows
  }
}
