/** The tokens of one request as far as they are known: what penalties count, and where the next one stands. */
export class History {
  readonly #prompt: readonly number[]
  readonly #answer: number[] = []
  readonly #counts = new Map<number, number>()
  // Made when it is first asked for, since only one of the penalties needs it.
  #all: Uint32Array | undefined
  /** The most that `length` will be. */
  readonly capacity: number

  /** @param maxTokens the most that will be pushed */
  constructor(prompt: readonly number[], maxTokens: number) {
    this.#prompt = prompt
    this.capacity = prompt.length + maxTokens
  }

  push(token: number): void {
    if (this.#all) this.#all[this.length] = token
    this.#answer.push(token)
    this.#counts.set(token, (this.#counts.get(token) ?? 0) + 1)
  }

  /** Tokens of prompt and answer: the position of the next one. */
  get length(): number {
    return this.#prompt.length + this.#answer.length
  }

  /** Tokens of the answer. */
  get generated(): number {
    return this.#answer.length
  }

  /** How often each token is in the answer. */
  get counts(): ReadonlyMap<number, number> {
    return this.#counts
  }

  /** Prompt and answer; valid until the next `push`. */
  all(): Uint32Array {
    if (!this.#all) {
      this.#all = new Uint32Array(this.capacity)
      this.#all.set(this.#prompt)
      this.#all.set(this.#answer, this.#prompt.length)
    }
    return this.#all.subarray(0, this.length)
  }
}
