import { Random } from '@kvx/simulator'

/** Chance for frames: the same seed makes the same ones. */
export class FrameRandom extends Random {
  readonly #noise: Uint8Array

  constructor(seed: number) {
    super(seed)
    const words = Uint32Array.from({ length: 1 << 17 }, () => this.below(2 ** 32))
    this.#noise = new Uint8Array(words.buffer)
  }

  /** An integer from 0 to `end`, exclusive. */
  below(end: number): number {
    return Math.floor(this.next() * end)
  }

  /** A copy out of half a megabyte of noise. */
  bytes(length: number): Uint8Array {
    const start = this.below(this.#noise.length - length)
    return this.#noise.slice(start, start + length)
  }
}
