/** A set of tuples of numbers that grows: each is kept whole, so that no two are ever taken for one. */
export class Table {
  readonly #width: number
  /** One tuple behind the other. */
  tuples: Uint32Array
  size = 0
  /** Numbers of tuples, plus 1, by hash: open addressing. */
  #slots = new Uint32Array(1 << 12)

  constructor(width: number) {
    this.#width = width
    this.tuples = new Uint32Array(width << 10)
  }

  /** Bytes that it takes. */
  get bytes(): number {
    return this.tuples.byteLength + this.#slots.byteLength
  }

  /** The number of a tuple, which is added if need be: then it is the last one. */
  add(tuple: Uint32Array): number {
    let slot = this.#slotOf(tuple, 0)
    for (let number = this.#slots[slot]!; number > 0; number = this.#slots[slot]!) {
      if (this.#isAt(number - 1, tuple)) return number - 1
      slot = (slot + 1) & (this.#slots.length - 1)
    }
    if (this.tuples.length < (this.size + 1) * this.#width) {
      const larger = new Uint32Array(this.tuples.length * 2)
      larger.set(this.tuples)
      this.tuples = larger
    }
    this.tuples.set(tuple, this.size * this.#width)
    this.#slots[slot] = ++this.size
    if (this.size * 2 > this.#slots.length) this.#spread()
    return this.size - 1
  }

  #isAt(number: number, tuple: Uint32Array): boolean {
    const at = number * this.#width
    for (let i = 0; i < this.#width; i++) if (this.tuples[at + i] !== tuple[i]) return false
    return true
  }

  #slotOf(numbers: Uint32Array, at: number): number {
    let hash = 0x9e3779b9
    for (let i = 0; i < this.#width; i++) {
      hash = Math.imul(hash ^ numbers[at + i]!, 0x85ebca6b)
      hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    }
    return ((hash ^ (hash >>> 16)) >>> 0) & (this.#slots.length - 1)
  }

  #spread(): void {
    this.#slots = new Uint32Array(this.#slots.length * 2)
    for (let number = 0; number < this.size; number++) {
      let slot = this.#slotOf(this.tuples, number * this.#width)
      while (this.#slots[slot]! > 0) slot = (slot + 1) & (this.#slots.length - 1)
      this.#slots[slot] = number + 1
    }
  }
}
