/** The requests that a worker has taken and not ended, by the id under which their client knows them. */
import { KvxError } from '@kvx/contract'

interface Live {
  readonly id: string
  readonly tokens: number
  readonly over: AbortController
}

export class LiveRequests {
  readonly #live = new Set<Live>()

  /** Prompt tokens of all of them. */
  get tokens(): number {
    let sum = 0
    for (const { tokens } of this.#live) sum += tokens
    return sum
  }

  get count(): number {
    return this.#live.size
  }

  /** Runs `work` as a request that `abort` can end. */
  async during<T>(
    id: string,
    tokens: number,
    work: (aborted: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const live = { id, tokens, over: new AbortController() }
    this.#live.add(live)
    try {
      return await work(live.over.signal)
    } finally {
      this.#live.delete(live)
    }
  }

  /**
   * Ends the requests with this id, or all. Their clients are answered `ERR_KVX_ABORTED`.
   * @returns how many there were
   */
  abort(id?: string): number {
    const chosen = [...this.#live].filter((live) => id === undefined || live.id === id)
    for (const { over } of chosen) {
      over.abort(
        new KvxError('ERR_KVX_ABORTED', 'The request was ended by /abort_request.', {
          phase: 'transfer',
        }),
      )
    }
    return chosen.length
  }
}
