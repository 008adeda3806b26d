/** A list of small numbers, four bytes each. */
export class Numbers {
  #list = new Uint32Array(1 << 10)
  size = 0

  at(index: number): number {
    return this.#list[index]!
  }

  set(index: number, value: number): void {
    this.#list[index] = value
  }

  push(value: number): void {
    if (this.size === this.#list.length) {
      const larger = new Uint32Array(this.size * 2)
      larger.set(this.#list)
      this.#list = larger
    }
    this.#list[this.size++] = value
  }
}
