/**
 * Every error of kvx is a `KvxError` with a stable `code`. Match on `code`, not on `instanceof`:
 * two copies of this package may be loaded in one process.
 */

interface ErrorFact {
  /** One sentence; this and the rest make the table of docs/errors.md. */
  readonly summary: string
  /** Whether the same request may succeed when it is tried again. */
  readonly retryable: boolean
  /** Where a request may end with it. None: it arises outside of a transfer. */
  readonly phases: readonly Phase[]
  /** What a person who gets it should do. */
  readonly advice: string
}

/** Where in the life of a request an error arose. */
export const phaseTable = {
  open: 'before any request: a backend, a model, memory or an address is being opened',
  bootstrap: 'decode asks the bootstrap service for the ranks of the prefill instance',
  hello: 'decode and a prefill rank greet each other, and their engines are connected',
  reserve: 'decode asks prefill to write into its pages; prefill waits for that',
  parked: 'decode has reserved, and the prefill leg of the room is not there yet',
  paired: 'both legs are there, and decode is to give its pages',
  transfer: 'bytes move',
  complete: 'everything was sent: manifest, digests and acknowledgement',
  decode: 'tokens are generated from what has arrived',
} as const satisfies Record<string, string>

/** During which part of a request, or of starting and stopping, an error came: a name of `phaseTable`. */
export type Phase = keyof typeof phaseTable

/** The closed set of codes. Adding one is a minor change, removing or renaming one a major change. */
export const errorTable = {
  ERR_KVX_INVALID_ARGUMENT: {
    summary: 'A value given by the caller is out of range or malformed.',
    retryable: false,
    phases: ['open', 'bootstrap', 'reserve', 'parked', 'transfer', 'complete'],
    advice: 'Correct the value that the message names.',
  },
  ERR_KVX_INVALID_OPTION: {
    summary: 'An option is unknown or its value does not fit.',
    retryable: false,
    phases: ['open', 'transfer'],
    advice: 'Correct the option that the message names; docs/configuration.md lists them.',
  },
  ERR_KVX_INVALID_STATE: {
    summary: 'The call does not fit the present state of the object.',
    retryable: false,
    phases: ['hello'],
    advice:
      'Call in the order that the docstring gives. From a peer it means “say hello again”, which kvx does by itself.',
  },
  ERR_KVX_UNSETTLED: {
    summary:
      'A transfer engine was closed, but bytes that it had sent may still land in the memory of a target.',
    retryable: false,
    phases: ['transfer'],
    advice:
      'Nothing to do on this side: its memory may be freed. The target uses its pages again once it has closed its own engine, which kvx does by itself.',
  },
  ERR_KVX_BACKEND_NOT_INSTALLED: {
    summary: 'There is no such transfer backend, or its package is not installed.',
    retryable: false,
    phases: ['open'],
    advice: 'Correct the name, or run the `npm install` line of the message.',
  },
  ERR_KVX_BACKEND_INVALID: {
    summary: 'The package was found but is no backend of this contract version.',
    retryable: false,
    phases: ['open'],
    advice: 'Install a version of the backend that fits this @kvx/core.',
  },
  ERR_KVX_BACKEND_UNAVAILABLE: {
    summary: 'The backend cannot run here: its library, addon or device is missing or refused.',
    retryable: false,
    phases: ['open'],
    advice: 'Read what was tried in the message; `kvx doctor` and `kvx backend install` help.',
  },
  ERR_KVX_MEMORY: {
    summary: 'Memory could not be allocated, mapped or registered.',
    retryable: false,
    phases: ['open'],
    advice: 'Free memory, or raise the limit that the message names (`ulimit -l`, `/dev/shm`).',
  },
  ERR_KVX_PLAN_INVALID: {
    summary:
      'A transfer plan names bytes outside the registered regions, or numbers that are not non-negative integers.',
    retryable: false,
    phases: ['transfer'],
    advice: 'Check the place that the host gave: a tensor of it lies outside of its memory.',
  },
  ERR_KVX_CONNECT_FAILED: {
    summary: 'The engine could not be connected to the peer.',
    retryable: true,
    phases: ['hello'],
    advice: 'Is the peer running, and can its transfer port be reached from here?',
  },
  ERR_KVX_TRANSFER_FAILED: {
    summary: 'The engine reported that a transfer, or a digest of what it has moved, failed.',
    retryable: true,
    phases: ['parked', 'transfer', 'complete'],
    advice: 'Try again. If it comes back, the reason of the engine is in the message.',
  },
  ERR_KVX_TRANSFER_TIMEOUT: {
    summary: 'A transfer did not end before its deadline.',
    retryable: true,
    phases: ['transfer'],
    advice: 'Try again; raise the deadline `transfer` when the network is only slow.',
  },
  ERR_KVX_PEER_LOST: {
    summary: 'The peer died, was replaced, or has been silent for longer than the deadline.',
    retryable: true,
    phases: ['hello', 'reserve', 'parked', 'transfer'],
    advice: 'Try again, with another instance if there is one. The message names the peer.',
  },
  ERR_KVX_CLOSED: {
    summary: 'The object was closed while the call was waiting, or before it.',
    retryable: true,
    phases: ['hello', 'reserve', 'parked', 'transfer', 'complete'],
    advice: 'Send the request to another instance: this one is ending.',
  },
  ERR_KVX_DRAINING: {
    summary:
      'The process takes no new requests, because it is about to end or another one is registered in its place.',
    retryable: true,
    phases: ['reserve', 'parked'],
    advice: 'Send the request to another instance.',
  },
  ERR_KVX_ABORTED: {
    summary: 'The request was aborted by its caller or by the other side.',
    retryable: false,
    phases: ['open', 'bootstrap', 'hello', 'reserve', 'parked', 'transfer', 'complete', 'decode'],
    advice: 'Nothing: somebody wanted it so. The message says who and why.',
  },
  ERR_KVX_TIMEOUT: {
    summary: 'A wait of the protocol ended at its deadline.',
    retryable: true,
    phases: ['hello', 'reserve', 'parked', 'paired', 'transfer', 'complete'],
    advice:
      'See the phase: `reserve` means that the leg of decode did not come, the others that the peer is slow. Each deadline can be raised.',
  },
  ERR_KVX_ADDRESS_UNAVAILABLE: {
    summary:
      'The address to listen on is in use, does not belong to this machine, or no socket can be made for it.',
    retryable: false,
    phases: ['open'],
    advice:
      'Choose another host or port, or 0 for any free port; set TMPDIR to a folder that can be written.',
  },
  ERR_KVX_BOOTSTRAP_UNREACHABLE: {
    summary:
      'The bootstrap service did not answer: not running, another address, or another token.',
    retryable: true,
    phases: ['bootstrap'],
    advice:
      'Check address and port of the prefill instance, and that both sides have the same token. Of an address that has never shown the token a decode worker tells clients no more; its log does.',
  },
  ERR_KVX_BOOTSTRAP_INCOMPLETE: {
    summary: 'The prefill instance has not registered all of its ranks.',
    retryable: true,
    phases: ['bootstrap'],
    advice:
      'Wait until all ranks of the prefill instance run; the message says how many are missing.',
  },
  ERR_KVX_UNAUTHORIZED: {
    summary: 'The peer does not hold the same token.',
    retryable: false,
    phases: ['bootstrap', 'hello'],
    advice: 'Give both sides the same token (`KVX_TOKEN`, `--token-file`).',
  },
  ERR_KVX_VERSION_MISMATCH: {
    summary: 'Both sides speak different protocol versions.',
    retryable: false,
    phases: ['hello'],
    advice: 'Run the same version of kvx on both sides.',
  },
  ERR_KVX_BACKEND_MISMATCH: {
    summary: 'Both sides use different transfer backends, or versions that do not fit.',
    retryable: false,
    phases: ['hello'],
    advice: 'Give both sides the same `--transfer-backend`, in versions that fit.',
  },
  ERR_KVX_LAYOUT_MISMATCH: {
    summary:
      'The caches of both sides do not fit: model, settings, layers, components, tensors, or how the ranks divide them.',
    retryable: false,
    phases: ['bootstrap', 'hello'],
    advice:
      'Load the same model, with the same settings of the cache, on both sides. The message names what differs.',
  },
  ERR_KVX_PAGE_SIZE_MISMATCH: {
    summary: 'Both sides use different page sizes.',
    retryable: false,
    phases: ['hello'],
    advice: 'Give both sides the same `--page-size`.',
  },
  ERR_KVX_SESSION_MISMATCH: {
    summary: 'A known incarnation was named without its session.',
    retryable: false,
    phases: ['hello'],
    advice:
      'Nothing, if it is one’s own process: restart it. Otherwise somebody with the token pretends to be another.',
  },
  ERR_KVX_SENDER_MISMATCH: {
    summary: 'A connection spoke for another incarnation than the one it said hello for.',
    retryable: false,
    phases: ['hello', 'transfer'],
    advice:
      'Nothing of it was taken. Look for a foreign or defective process that holds the token.',
  },
  ERR_KVX_EPOCH_MISMATCH: {
    summary: 'A peer spoke of an epoch or a generation that belongs to another one.',
    retryable: false,
    phases: ['transfer', 'complete'],
    advice:
      'Nothing of it was taken. Look for a foreign or defective process that holds the token.',
  },
  ERR_KVX_LAYOUT_INVALID: {
    summary: 'A peer described a cache that cannot be: regions, sizes or heads out of range.',
    retryable: false,
    phases: ['hello'],
    advice: 'Check the shape and the place that the other side gives to its manager.',
  },
  ERR_KVX_PAGES_INVALID: {
    summary: 'Decode named pages that it does not have, too few or too many, or one twice.',
    retryable: false,
    phases: ['reserve'],
    advice: "Check the pages that decode's host gives to `reserve` or `provide`.",
  },
  ERR_KVX_AUX_TOO_LARGE: {
    summary: 'The aux data is larger than both sides agreed on.',
    retryable: false,
    phases: ['complete'],
    advice: 'Raise the limit `auxBytes` on both sides, or send less.',
  },
  ERR_KVX_PROTOCOL: {
    summary: 'A peer sent a message that breaks the protocol.',
    retryable: false,
    phases: ['bootstrap', 'hello', 'reserve', 'transfer', 'complete'],
    advice: 'Run the same version of kvx on both sides; if it is the same, please report it.',
  },
  ERR_KVX_ROOM_IN_USE: {
    summary: 'The room (with index and rank) already belongs to a live request.',
    retryable: false,
    phases: ['reserve'],
    advice: 'Use a new room for each request: a router draws them at random.',
  },
  ERR_KVX_ROOM_UNKNOWN: {
    summary: 'Decode asked for a room of which prefill was not sent its leg in time.',
    retryable: true,
    phases: ['bootstrap', 'parked'],
    advice:
      'Send both legs of a room at the same time, and decode to the prefill worker that has the room; the deadline `pairing` can be raised.',
  },
  ERR_KVX_ROOM_CONSUMED: {
    summary: 'Decode asked for a room that prefill has sent before, to its end.',
    retryable: false,
    phases: ['parked'],
    advice: 'Use a new room for each request, and send both legs of it.',
  },
  ERR_KVX_PROMPT_MISMATCH: {
    summary: 'Prefill and decode were given different prompts for one room.',
    retryable: false,
    phases: ['reserve'],
    advice: 'Send both legs of a room the same prompt.',
  },
  ERR_KVX_OVER_LIMIT: {
    summary: 'A limit on parked, live or queued requests, or on what they hold, is reached.',
    retryable: true,
    phases: ['open', 'bootstrap', 'hello', 'reserve'],
    advice: 'Try again later, or with another instance; the limits are in docs/configuration.md.',
  },
  ERR_KVX_STALE: {
    summary: 'The epoch is at or below the watermark and over.',
    retryable: true,
    phases: ['hello', 'reserve'],
    advice: 'Try again. kvx itself tries three times with new epochs first.',
  },
  ERR_KVX_OUTCOME_LOST: {
    summary: 'The request is over on the other side, and its outcome is not known any more.',
    retryable: true,
    phases: ['transfer'],
    advice: 'Try again: nothing that arrived is used.',
  },
  ERR_KVX_MANIFEST_MISMATCH: {
    summary: 'What arrived is not what the manifest says.',
    retryable: true,
    phases: ['complete'],
    advice: 'Try again; if it comes back, please report it.',
  },
  ERR_KVX_CHECKSUM_MISMATCH: {
    summary: 'What landed differs from what was sent: digests (`verifyKV`) do not agree.',
    retryable: true,
    phases: ['complete'],
    advice: 'Try again; if it comes back, suspect the memory, the network card or the engine.',
  },
  ERR_KVX_POOL_EXHAUSTED: {
    summary: 'There are not enough free pages.',
    retryable: true,
    phases: ['hello', 'reserve', 'transfer'],
    advice: 'Try again later; give the pool more pages or allow fewer requests at a time.',
  },
  ERR_KVX_MODEL: {
    summary: 'The model file is missing, damaged or not usable.',
    retryable: false,
    phases: ['open', 'transfer', 'decode'],
    advice: 'Check the model file that the message names, or pull it again with `kvx model pull`.',
  },
  ERR_KVX_MODEL_STATE: {
    summary: 'A saved model state does not have the geometry of the model.',
    retryable: false,
    phases: [],
    advice: 'Run the same model and the same kvx on both sides.',
  },
  ERR_KVX_INTERNAL: {
    summary: 'A defect of kvx. Please report it.',
    retryable: false,
    phases: ['reserve', 'transfer', 'complete'],
    advice: 'Report it, with the log.',
  },
} as const satisfies Record<string, ErrorFact>

/** A name of `errorTable`. */
export type ErrorCode = keyof typeof errorTable

/** What an error may say beside its code and message. */
export interface KvxErrorOptions {
  /** What was caught, for logs; peers and clients are not told. */
  cause?: unknown
  /** When it came. */
  phase?: Phase | undefined
  /** Whom it concerns, as a person would name it: an instance, rank and address. */
  peer?: string | undefined
  /** Rank of `peer`, as `tp0/pp0/cp0/dp0`. */
  rank?: string | undefined
}

/** The only error that kvx throws on purpose. `message` says what happened, to whom, and what to do. */
export class KvxError extends Error {
  /** Always this, also where another copy of the package made it. */
  override readonly name = 'KvxError'
  /** What to decide by; docs/errors.md has what each means. */
  readonly code: ErrorCode
  /** When it came, where that is known. */
  readonly phase: Phase | undefined
  /** Whom it concerns, as a person would name it: an instance, rank and address. */
  readonly peer: string | undefined
  /** Rank of `peer`, as `tp0/pp0/cp0/dp0`. */
  readonly rank: string | undefined

  /** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` for a code that does not exist, no text, or no options */
  constructor(code: ErrorCode, message: string, options: KvxErrorOptions = {}) {
    checkErrorArguments(code, message, options)
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

  /** What `JSON.stringify` and logs show: all but the stack, and of the cause its name and message. */
  toJSON(): object {
    const { name, code, message, phase, peer, rank, cause } = this
    const why = cause instanceof Error ? { name: cause.name, message: cause.message } : undefined
    return { name, code, message, phase, peer, rank, cause: isKvxError(cause) ? cause : why }
  }
}

function checkErrorArguments(code: unknown, message: unknown, options: unknown): void {
  const wrong = !isErrorCode(code)
    ? `code must be a code of errorTable, got ${shown(code)}.`
    : typeof message !== 'string'
      ? `message must be a string, got ${shown(message)}.`
      : typeof options !== 'object' || options === null
        ? `options must be an object, got ${shown(options)}.`
        : undefined
  if (wrong !== undefined) throw new KvxError('ERR_KVX_INVALID_ARGUMENT', wrong)
}

function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 60))
  return typeof value === 'object' && value !== null ? 'an object' : String(value)
}

/** Of whatever was thrown. */
function messageOf(value: unknown): string {
  if (value instanceof Error) return value.message
  return typeof value === 'string' ? value : shown(value)
}

/** Whether a value is one of the codes. */
export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(errorTable, value)
}

/**
 * What the system said, in words: of Node's `ENOENT: no such file or directory, open 'x'` the middle, so that a sentence which names
 * the file need not do it twice. The message of any other error as it is; of what is no error, what it is.
 */
export function systemReason(cause: unknown): string {
  const message = messageOf(cause)
  return /^E[A-Z0-9]+: ([^,]+), \w+(?: '.*)?$/s.exec(message)?.[1] ?? message
}

/** A `KvxError` of this or another copy of the package. */
export function isKvxError(value: unknown): value is KvxError {
  return (
    value instanceof Error &&
    value.name === 'KvxError' &&
    isErrorCode((value as { code?: unknown }).code)
  )
}

/**
 * `value` as a `KvxError`; anything else becomes the cause of one with `code`.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` for a code that does not exist, or no options
 */
export function toKvxError(
  value: unknown,
  code: ErrorCode = 'ERR_KVX_INTERNAL',
  options: KvxErrorOptions = {},
): KvxError {
  checkErrorArguments(code, '', options)
  if (isKvxError(value)) return value
  return new KvxError(code, messageOf(value), { ...options, cause: value })
}
