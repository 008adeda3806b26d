import { closedError } from './queue.ts'

interface Entry {
  readonly exclusive: boolean
  enter(): void
  refuse(error: Error): void
}

/**
 * What runs on one llama.cpp context, first come, first served: decode steps together, as one batch;
 * prefill chunks, and saving, loading and clearing of states, alone.
 *
 * A chunk is alone because llama.cpp may split a batch into pieces of equal length per sequence: beside
 * another sequence's single token, the first token of a chunk is then a piece of its own, and a piece of
 * one token is computed by other kernels, with other rounding, than the same token in a longer one.
 * States are handled alone because they need a lock that the batches hold for as long as one follows
 * the other without a break.
 */
export class Turns {
  readonly #line: Entry[] = []
  #inside = 0
  #exclusive = false
  #closed = false
  #onEmpty: (() => void) | undefined

  shared<T>(work: () => Promise<T>): Promise<T> {
    return this.#run(false, work)
  }

  exclusive<T>(work: () => Promise<T>): Promise<T> {
    return this.#run(true, work)
  }

  /** Refuses all further work; resolves when nothing runs any more. */
  async close(): Promise<void> {
    this.#closed = true
    for (const entry of this.#line.splice(0)) entry.refuse(closedError())
    if (this.#inside > 0) {
      await new Promise<void>((resolve) => {
        this.#onEmpty = resolve
      })
    }
  }

  async #run<T>(exclusive: boolean, work: () => Promise<T>): Promise<T> {
    await new Promise<void>((enter, refuse) => {
      if (this.#closed) {
        refuse(closedError())
        return
      }
      this.#line.push({ exclusive, enter, refuse })
      this.#advance()
    })
    try {
      return await work()
    } finally {
      this.#inside--
      this.#exclusive = false
      this.#advance()
      if (this.#inside === 0) this.#onEmpty?.()
    }
  }

  #advance(): void {
    for (let next = this.#line[0]; next !== undefined; next = this.#line[0]) {
      if (this.#exclusive || (next.exclusive && this.#inside > 0)) return
      this.#line.shift()
      this.#inside++
      this.#exclusive = next.exclusive
      next.enter()
    }
  }
}
