import { KvxError } from '@kvx/contract'

/** The error of a backend that cannot run here. */
export function unavailable(message: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_BACKEND_UNAVAILABLE', message, { cause, phase: 'open' })
}

/** The error of an option, or of the variable in its place. */
export function invalidOption(message: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_OPTION', message, { phase: 'open' })
}
