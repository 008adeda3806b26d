/** What an error looks like to an HTTP client: OpenAI's shape, and one table of statuses. */
import { toKvxError, type ErrorCode, type KvxError } from '@kvx/contract'

/**
 * Status per code. Routers retry 429, 500 and 503 and pass the others on, so a code that is
 * `retryable` has one of those or 504, and a code that will fail again has not, except our own defects.
 */
const statusTable = {
  ERR_KVX_INVALID_ARGUMENT: 400,
  // Always the operator's, never the client's.
  ERR_KVX_INVALID_OPTION: 502,
  ERR_KVX_INVALID_STATE: 500,
  ERR_KVX_UNSETTLED: 500,
  ERR_KVX_BACKEND_NOT_INSTALLED: 501,
  ERR_KVX_BACKEND_INVALID: 501,
  ERR_KVX_BACKEND_UNAVAILABLE: 501,
  ERR_KVX_ADDRESS_UNAVAILABLE: 500,
  ERR_KVX_MEMORY: 500,
  ERR_KVX_PLAN_INVALID: 500,
  ERR_KVX_CONNECT_FAILED: 503,
  ERR_KVX_TRANSFER_FAILED: 503,
  ERR_KVX_TRANSFER_TIMEOUT: 504,
  ERR_KVX_PEER_LOST: 503,
  ERR_KVX_CLOSED: 503,
  ERR_KVX_DRAINING: 503,
  ERR_KVX_ABORTED: 499,
  ERR_KVX_TIMEOUT: 504,
  ERR_KVX_BOOTSTRAP_UNREACHABLE: 503,
  ERR_KVX_BOOTSTRAP_INCOMPLETE: 503,
  ERR_KVX_UNAUTHORIZED: 502,
  ERR_KVX_VERSION_MISMATCH: 502,
  ERR_KVX_BACKEND_MISMATCH: 502,
  ERR_KVX_LAYOUT_MISMATCH: 502,
  ERR_KVX_PAGE_SIZE_MISMATCH: 502,
  ERR_KVX_SESSION_MISMATCH: 502,
  ERR_KVX_SENDER_MISMATCH: 502,
  ERR_KVX_EPOCH_MISMATCH: 502,
  ERR_KVX_LAYOUT_INVALID: 502,
  ERR_KVX_PAGES_INVALID: 502,
  ERR_KVX_AUX_TOO_LARGE: 502,
  ERR_KVX_PROTOCOL: 502,
  ERR_KVX_ROOM_IN_USE: 409,
  ERR_KVX_ROOM_UNKNOWN: 504,
  ERR_KVX_ROOM_CONSUMED: 410,
  ERR_KVX_PROMPT_MISMATCH: 409,
  ERR_KVX_OVER_LIMIT: 429,
  ERR_KVX_STALE: 503,
  ERR_KVX_OUTCOME_LOST: 503,
  ERR_KVX_MANIFEST_MISMATCH: 500,
  ERR_KVX_CHECKSUM_MISMATCH: 500,
  ERR_KVX_POOL_EXHAUSTED: 503,
  ERR_KVX_MODEL: 500,
  ERR_KVX_MODEL_STATE: 500,
  ERR_KVX_INTERNAL: 500,
} as const satisfies Record<ErrorCode, number>

export interface HttpError {
  readonly status: number
  readonly body: { readonly error: ErrorObject }
}

export interface ErrorObject {
  readonly message: string
  /** OpenAI's class of errors. */
  readonly type: string
  readonly code: string
  /** Where in the life of the request. */
  readonly phase: string | null
  /** Whom it concerns, by instance or address, and which of its ranks. */
  readonly peer: string | null
  readonly rank: string | null
  /** Whether the same request may succeed when it is sent again. */
  readonly retryable: boolean
}

/** A refusal that only HTTP has words for. */
export class Refusal extends Error {
  override readonly name = 'Refusal'
  readonly http: HttpError

  constructor(http: HttpError) {
    super(http.body.error.message)
    this.http = http
  }
}

export function httpError(cause: unknown): HttpError {
  if (cause instanceof Refusal) return cause.http
  const error = toKvxError(cause)
  const status = statusOf(error)
  const { message, code, phase = null, peer = null, rank = null, retryable } = error
  return {
    status,
    body: { error: { message, type: errorType(status), code, phase, peer, rank, retryable } },
  }
}

/** An error of the server itself, or of one that does not speak of phases and peers. */
export function plainError(status: number, code: string, message: string): HttpError {
  const nobody = { phase: null, peer: null, rank: null }
  const retryable = retryableStatuses.has(status)
  return {
    status,
    body: { error: { message, type: errorType(status), code, ...nobody, retryable } },
  }
}

export function statusOf(error: KvxError): number {
  // A newer copy of @kvx/contract may know a code that this table does not.
  return (statusTable as Record<string, number>)[error.code] ?? 500
}

export function errorType(status: number): string {
  if (status === 401) return 'authentication_error'
  if (status === 403) return 'permission_error'
  if (status === 404) return 'not_found_error'
  if (status === 429) return 'rate_limit_error'
  return status < 500 ? 'invalid_request_error' : 'server_error'
}

const retryableStatuses = new Set([408, 429, 503, 504])
