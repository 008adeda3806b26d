/**
 * Every error of kvx is a `KvxError` with a stable `code`. Match on `code`, not on `instanceof`:
 * two copies of this package may be loaded in one process.
 */

interface ErrorFact {
  /** One sentence for the generated table in docs/errors.md. */
  readonly summary: string
  /** Whether the same request may succeed when it is tried again. */
  readonly retryable: boolean
}

/** The closed set of codes. Adding one is a minor change, removing or renaming one a major change. */
export const errorTable = {
  ERR_KVX_INVALID_ARGUMENT: {
    summary: 'A value given by the caller is out of range or malformed.',
    retryable: false,
  },
  ERR_KVX_INVALID_OPTION: {
    summary: 'An option is unknown or its value does not fit.',
    retryable: false,
  },
  ERR_KVX_INVALID_STATE: {
    summary: 'The call does not fit the present state of the object.',
    retryable: false,
  },
  ERR_KVX_BACKEND_NOT_INSTALLED: {
    summary: 'The package of the transfer backend is not installed.',
    retryable: false,
  },
  ERR_KVX_BACKEND_INVALID: {
    summary: 'The package was found but is no backend of this contract version.',
    retryable: false,
  },
  ERR_KVX_BACKEND_UNAVAILABLE: {
    summary: 'The backend cannot run here: its library, addon or device is missing or refused.',
    retryable: false,
  },
  ERR_KVX_MEMORY: {
    summary: 'Memory could not be allocated, mapped or registered.',
    retryable: false,
  },
  ERR_KVX_PLAN_INVALID: {
    summary:
      'A transfer plan names bytes outside the registered regions, or numbers that are not non-negative integers.',
    retryable: false,
  },
  ERR_KVX_CONNECT_FAILED: {
    summary: 'The engine could not be connected to the peer.',
    retryable: true,
  },
  ERR_KVX_TRANSFER_FAILED: {
    summary: 'The engine reported that a transfer failed.',
    retryable: true,
  },
  ERR_KVX_TRANSFER_TIMEOUT: {
    summary: 'A transfer did not end before its deadline.',
    retryable: true,
  },
  ERR_KVX_PEER_LOST: {
    summary: 'The peer died, was replaced, or has been silent for longer than the deadline.',
    retryable: true,
  },
  ERR_KVX_CLOSED: {
    summary: 'The object was closed while the call was waiting, or before it.',
    retryable: false,
  },
  ERR_KVX_ABORTED: {
    summary: 'The request was aborted by its caller or by the other side.',
    retryable: false,
  },
  ERR_KVX_TIMEOUT: { summary: 'A wait of the protocol ended at its deadline.', retryable: true },
  ERR_KVX_ADDRESS_UNAVAILABLE: {
    summary: 'The address to listen on is in use, or does not belong to this machine.',
    retryable: false,
  },
  ERR_KVX_BOOTSTRAP_UNREACHABLE: {
    summary:
      'The bootstrap service did not answer: not running, another address, or another token.',
    retryable: true,
  },
  ERR_KVX_BOOTSTRAP_INCOMPLETE: {
    summary: 'The prefill instance has not registered all of its ranks.',
    retryable: true,
  },
  ERR_KVX_UNAUTHORIZED: { summary: 'The peer does not hold the same token.', retryable: false },
  ERR_KVX_VERSION_MISMATCH: {
    summary: 'Both sides speak different protocol versions.',
    retryable: false,
  },
  ERR_KVX_BACKEND_MISMATCH: {
    summary: 'Both sides use different transfer backends, or versions that do not fit.',
    retryable: false,
  },
  ERR_KVX_LAYOUT_MISMATCH: {
    summary: 'The layouts of both sides do not fit: layers, heads, dtype or order.',
    retryable: false,
  },
  ERR_KVX_PAGE_SIZE_MISMATCH: { summary: 'Both sides use different page sizes.', retryable: false },
  ERR_KVX_SESSION_MISMATCH: {
    summary: 'A known incarnation was named without its session.',
    retryable: false,
  },
  ERR_KVX_PROTOCOL: {
    summary: 'A peer sent a message that breaks the protocol.',
    retryable: false,
  },
  ERR_KVX_ROOM_IN_USE: {
    summary: 'The room (with index and rank) already belongs to a live request.',
    retryable: false,
  },
  ERR_KVX_PROMPT_MISMATCH: {
    summary: 'Prefill and decode were given different prompts for one room.',
    retryable: false,
  },
  ERR_KVX_OVER_LIMIT: {
    summary: 'A limit on parked or live requests is reached.',
    retryable: true,
  },
  ERR_KVX_STALE: { summary: 'The epoch is at or below the watermark and over.', retryable: true },
  ERR_KVX_OUTCOME_LOST: {
    summary: 'The request is over on the other side, and its outcome is not known any more.',
    retryable: true,
  },
  ERR_KVX_MANIFEST_MISMATCH: {
    summary: 'What arrived is not what the manifest says.',
    retryable: true,
  },
  ERR_KVX_CHECKSUM_MISMATCH: {
    summary: 'A page that landed differs from the page that was sent.',
    retryable: true,
  },
  ERR_KVX_POOL_EXHAUSTED: { summary: 'There are not enough free pages.', retryable: true },
  ERR_KVX_MODEL: { summary: 'The model file is missing, damaged or not usable.', retryable: false },
  ERR_KVX_MODEL_STATE: {
    summary: 'A saved model state does not have the geometry of the model.',
    retryable: false,
  },
  ERR_KVX_INTERNAL: { summary: 'A defect of kvx. Please report it.', retryable: false },
} as const satisfies Record<string, ErrorFact>

export type ErrorCode = keyof typeof errorTable

/** Where in the life of a request an error arose. */
export type Phase =
  | 'open'
  | 'bootstrap'
  | 'hello'
  | 'reserve'
  | 'parked'
  | 'paired'
  | 'transfer'
  | 'complete'
  | 'decode'

export interface KvxErrorOptions {
  cause?: unknown
  phase?: Phase | undefined
  /** Whom it concerns, as a person would name it: an instance, rank and address. */
  peer?: string | undefined
  /** Rank of `peer`, as `tp0/pp0/cp0/dp0`. */
  rank?: string | undefined
}

export class KvxError extends Error {
  override readonly name = 'KvxError'
  readonly code: ErrorCode
  readonly phase: Phase | undefined
  readonly peer: string | undefined
  readonly rank: string | undefined

  constructor(code: ErrorCode, message: string, options: KvxErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.phase = options.phase
    this.peer = options.peer
    this.rank = options.rank
  }

  /** Whether the same request may succeed when it is tried again. */
  get retryable(): boolean {
    return errorTable[this.code].retryable
  }
}

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(errorTable, value)
}

/** A `KvxError` of this or another copy of the package. */
export function isKvxError(value: unknown): value is KvxError {
  return (
    value instanceof Error &&
    value.name === 'KvxError' &&
    isErrorCode((value as { code?: unknown }).code)
  )
}

/** `value` as a `KvxError`; anything else becomes the cause of one with `code`. */
export function toKvxError(
  value: unknown,
  code: ErrorCode = 'ERR_KVX_INTERNAL',
  options: KvxErrorOptions = {},
): KvxError {
  if (isKvxError(value)) return value
  const message = value instanceof Error ? value.message : String(value)
  return new KvxError(code, message, { ...options, cause: value })
}
