import { KvxError } from '@kvx/contract'
import { abortError } from './abort.ts'

interface Waiter<T> {
  take(item: T): void
  fail(error: Error): void
}

/** Things of which each is used by one at a time; who comes when none is free waits in line. */
export class Slots<T> {
  readonly #free: T[]
  readonly #waiting = new Set<Waiter<T>>()
  #closed = false

  constructor(items: Iterable<T>) {
    this.#free = [...items]
  }

  get free(): number {
    return this.#free.length
  }

  get waiting(): number {
    return this.#waiting.size
  }

  /** @throws KvxError `ERR_KVX_ABORTED` (or the signal's own KvxError), `ERR_KVX_CLOSED` */
  acquire(signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(closedError())
        return
      }
      if (signal?.aborted) {
        reject(abortError(signal))
        return
      }
      const item = this.#free.shift()
      if (item !== undefined) {
        resolve(item)
        return
      }
      const leave = (): void => {
        this.#waiting.delete(waiter)
        signal?.removeEventListener('abort', onAbort)
      }
      const waiter: Waiter<T> = {
        take(granted) {
          leave()
          resolve(granted)
        },
        fail(error) {
          leave()
          reject(error)
        },
      }
      const onAbort = (): void => {
        if (signal) waiter.fail(abortError(signal))
      }
      signal?.addEventListener('abort', onAbort)
      this.#waiting.add(waiter)
    })
  }

  release(item: T): void {
    const [next] = this.#waiting
    if (next) next.take(item)
    else this.#free.push(item)
  }

  /** Whoever waits fails, and whoever comes later. */
  close(): void {
    this.#closed = true
    for (const waiter of this.#waiting) waiter.fail(closedError())
  }
}

export function closedError(): KvxError {
  return new KvxError('ERR_KVX_CLOSED', 'The model was closed while the request was running.')
}
