/** Lets so many through at once; others wait in the order in which they came. */
export class Gate {
  readonly #limit: number
  readonly #waiting: (() => void)[] = []
  #inside = 0

  constructor(limit: number) {
    this.#limit = limit
  }

  /** How many are inside or wait. */
  get busy(): number {
    return this.#inside + this.#waiting.length
  }

  /** `leave` must follow. */
  async enter(): Promise<void> {
    if (this.#inside < this.#limit) this.#inside++
    // Whoever leaves hands the place over.
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  leave(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#inside--
    else next()
  }
}
