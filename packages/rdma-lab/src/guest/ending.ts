/** Finds the mark after which a stream has nothing more to say, wherever it is cut. */
export class Ending {
  readonly #mark: Buffer
  #held = Buffer.alloc(0)

  constructor(mark: string) {
    this.#mark = Buffer.from(mark)
  }

  /** What of the stream is known to stand before the mark, and whether the mark has come. */
  take(part: Uint8Array): { bytes: Buffer; ended: boolean } {
    const all = Buffer.concat([this.#held, part])
    const at = all.indexOf(this.#mark)
    if (at >= 0) return { bytes: all.subarray(0, at), ended: true }
    const held = this.#beginning(all)
    this.#held = all.subarray(all.length - held)
    return { bytes: all.subarray(0, all.length - held), ended: false }
  }

  /** How many bytes at the end of `bytes` may be the first of a mark. */
  #beginning(bytes: Buffer): number {
    const most = Math.min(bytes.length, this.#mark.length - 1)
    for (let length = most; length > 0; length--) {
      if (this.#mark.subarray(0, length).equals(bytes.subarray(bytes.length - length)))
        return length
    }
    return 0
  }
}
