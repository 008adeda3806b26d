import { KvxError } from '@kvx/contract'

/** What a timer of Node can wait: a longer time would be over at once. */
export const longestMs = 2 ** 31 - 1

/** A promise to be settled from outside. Nobody need listen: its rejection is never unhandled. */
export class Deferred<T> {
  readonly promise: Promise<T>
  readonly resolve: (value: T) => void
  readonly reject: (error: unknown) => void

  constructor() {
    let resolve: (value: T) => void = () => undefined
    let reject: (error: unknown) => void = () => undefined
    this.promise = new Promise<T>((yes, no) => {
      resolve = yes
      reject = no
    })
    this.promise.catch(() => undefined)
    this.resolve = resolve
    this.reject = reject
  }
}

/**
 * `promise`, or a rejection as soon as `signal` is aborted. Only the wait ends; what is waited for goes on.
 * @throws KvxError `ERR_KVX_ABORTED`
 */
export async function orAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
): Promise<T> {
  if (!signal) return promise
  const aborted = new Deferred<never>()
  const onAbort = () => {
    aborted.reject(
      new KvxError('ERR_KVX_ABORTED', 'The wait was aborted by its caller.', {
        cause: signal.reason,
      }),
    )
  }
  if (signal.aborted) onAbort()
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([promise, aborted.promise])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
