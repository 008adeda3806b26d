/** Which pages of the prompt were written, layer by layer, and from where. */
export class Coverage {
  /** Source page of each page of the prompt; −1 before it was written. */
  readonly sources: Int32Array
  readonly #layers: readonly number[]
  readonly #words: number
  readonly #bits: Uint32Array

  /** `layers`: those that this rank holds. */
  constructor(pages: number, layers: readonly number[]) {
    this.sources = new Int32Array(pages).fill(-1)
    this.#layers = layers
    this.#words = Math.ceil(layers.length / 32)
    this.#bits = new Uint32Array(pages * this.#words)
  }

  /** Marks `pages`, from prompt page `start` on; pages before `prefix` are not sent. Answers what is wrong, then nothing is marked. */
  add(
    start: number,
    pages: Int32Array,
    layers: readonly [number, number],
    prefix: number,
  ): string | undefined {
    const first = Math.max(start, prefix)
    const end = start + pages.length
    const masks = this.#masks(layers)
    for (let page = first; page < end; page++) {
      const known = this.sources[page] ?? -1
      if (known >= 0 && known !== pages[page - start]) {
        return `page ${String(page)} of the prompt was written from another source page before.`
      }
      for (const [word, mask] of masks.entries()) {
        if (((this.#bits[page * this.#words + word] ?? 0) & mask) !== 0) {
          return `page ${String(page)} of the prompt was already written.`
        }
      }
    }
    for (let page = first; page < end; page++) {
      this.sources[page] = pages[page - start] ?? -1
      for (const [word, mask] of masks.entries()) {
        const at = page * this.#words + word
        this.#bits[at] = (this.#bits[at] ?? 0) | mask
      }
    }
    return undefined
  }

  firstMissing(prefix: number): { page: number; layer: number } | undefined {
    const masks = this.#masks([0, Infinity])
    for (let page = prefix; page < this.sources.length; page++) {
      for (const [word, mask] of masks.entries()) {
        const missing = mask & ~(this.#bits[page * this.#words + word] ?? 0)
        if (missing === 0) continue
        const bit = 31 - Math.clz32(missing & -missing)
        return { page, layer: this.#layers[word * 32 + bit] ?? 0 }
      }
    }
    return undefined
  }

  #masks(layers: readonly [number, number]): Uint32Array {
    const masks = new Uint32Array(this.#words)
    for (const [position, layer] of this.#layers.entries()) {
      if (layer < layers[0] || layer >= layers[1]) continue
      const word = Math.floor(position / 32)
      masks[word] = (masks[word] ?? 0) | (1 << (position % 32))
    }
    return masks
  }
}
