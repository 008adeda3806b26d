import { KvxError, isKvxError } from '@kvx/contract'

/** The reason of an abort, when it is a KvxError, or `ERR_KVX_ABORTED` with the reason as its cause. */
export function abortError(signal: AbortSignal): KvxError {
  const reason: unknown = signal.reason
  if (isKvxError(reason)) return reason
  return new KvxError('ERR_KVX_ABORTED', 'The request was aborted by its caller.', {
    cause: reason,
  })
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal)
}
