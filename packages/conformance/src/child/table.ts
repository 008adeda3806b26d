/** Objects of this process, by the numbers under which the test knows them. */
export class Table<T> {
  readonly #what: string
  readonly #entries = new Map<number, T>()
  #last = 0

  constructor(what: string) {
    this.#what = what
  }

  add(value: T): number {
    this.#entries.set(++this.#last, value)
    return this.#last
  }

  get(number: number): T {
    const value = this.#entries.get(number)
    if (value === undefined) throw new Error(`There is no ${this.#what} ${number}.`)
    return value
  }

  /** All of them, which the table then forgets. */
  take(): T[] {
    const all = [...this.#entries.values()]
    this.#entries.clear()
    return all
  }
}
