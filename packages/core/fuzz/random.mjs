/** Small seeded generator (mulberry32): the same seed makes the same frames. */
export class Random {
  #state
  #noise

  constructor(seed) {
    this.#state = seed >>> 0
    this.#noise = Uint32Array.from({ length: 1 << 17 }, () => this.word())
  }

  /** From 0 to 2^32 − 1. */
  word() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let t = this.#state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return (t ^ (t >>> 14)) >>> 0
  }

  /** From 0 to `end`, exclusive. */
  below(end) {
    return Math.floor((this.word() / 2 ** 32) * end)
  }

  chance(probability) {
    return this.word() < probability * 2 ** 32
  }

  pick(items) {
    return items[this.below(items.length)]
  }

  /** A copy out of half a megabyte of noise. */
  bytes(length) {
    const noise = new Uint8Array(this.#noise.buffer)
    const start = this.below(noise.length - length)
    return noise.slice(start, start + length)
  }
}
