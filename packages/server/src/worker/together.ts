/** Several pieces of work as one: the first failure ends all, and nothing of them goes on afterwards. */
import { toKvxError } from '@kvx/contract'

/**
 * @param work is given a signal that is aborted with `signal` and with the first failure
 * @returns what each piece of work returned; rejects with the first failure, when all have ended
 */
export async function together<T, R>(
  items: readonly T[],
  signal: AbortSignal,
  work: (item: T, index: number, either: AbortSignal) => Promise<R>,
): Promise<R[]> {
  const over = new AbortController()
  const either = AbortSignal.any([signal, over.signal])
  let failure: { readonly cause: unknown } | undefined
  const done = await Promise.all(
    items.map(async (item, index) => {
      try {
        return [await work(item, index, either)]
      } catch (cause) {
        failure ??= { cause }
        over.abort(cause)
        return []
      }
    }),
  )
  if (failure !== undefined) throw failure.cause
  return done.flat(1)
}

/** Nobody goes on before all have come. */
export class Meeting {
  readonly #all: Promise<void>
  readonly #onAll: () => void
  #missing: number
  #resolve: () => void = () => undefined

  /** @param onAll is called when the last has come, before anybody goes on */
  constructor(members: number, onAll: () => void) {
    this.#missing = members
    this.#onAll = onAll
    this.#all = new Promise((resolve) => (this.#resolve = resolve))
  }

  /** To be called once by each. Rejects when the signal is aborted before all have come. */
  async arrive(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (--this.#missing === 0) {
      this.#onAll()
      this.#resolve()
      return
    }
    let abort: (() => void) | undefined
    const aborted = new Promise<never>((_, reject) => {
      abort = () => {
        reject(toKvxError(signal.reason))
      }
      signal.addEventListener('abort', abort, { once: true })
    })
    try {
      await Promise.race([this.#all, aborted])
    } finally {
      if (abort) signal.removeEventListener('abort', abort)
    }
  }
}
