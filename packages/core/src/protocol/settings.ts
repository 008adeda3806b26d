import { KvxError, type ErrorCode } from '@kvx/contract'
import * as v from 'valibot'
import { checked, exactly, isObject, shown, such } from '../arguments.ts'
import type { Deadlines, Limits } from '../manager/types.ts'

/** What docs/configuration.md says of a deadline or a limit, beside its default. */
interface Setting {
  readonly default: number
  /** None: there is no largest value. */
  readonly most?: number
  /** 0 is a value too, and turns it off. */
  readonly orZero?: true
  readonly unit: 'ms' | 'bytes' | 'requests' | 'ranks' | 'share'
  /** Whose settings count. */
  readonly side: 'prefill' | 'decode' | 'both'
  /** Whether a request may have its own; else it is the manager's. */
  readonly perRequest: boolean
  /** What it bounds. */
  readonly summary: string
  /** What happens when it passes or is reached. */
  readonly end: string
  /** How a request ends then. None: no request ends by it alone. */
  readonly codes: readonly ErrorCode[]
}

/**
 * What the longest messages about a request are made of: `complete` holds the aux and 16 bytes for each layer of each
 * component, `reserve` four bytes for each page of the prompt. Each fits into a frame of 4 MiB with what else there is to say.
 */
export const maxAuxBytes = 2 * 1024 ** 2
export const maxPromptPages = 500_000

/** Milliseconds. All are on by default. */
export const deadlineTable = {
  hello: {
    default: 15_000,
    unit: 'ms',
    side: 'both',
    perRequest: true,
    summary:
      'decode: from `receive` until the bootstrap has answered, every prefill rank is connected and has answered `hello`. prefill: its engine connects to the one of decode.',
    end: 'The request fails. prefill: the `hello` is refused.',
    codes: ['ERR_KVX_BOOTSTRAP_UNREACHABLE', 'ERR_KVX_TIMEOUT', 'ERR_KVX_CONNECT_FAILED'],
  },
  probe: {
    default: 2_000,
    unit: 'ms',
    side: 'decode',
    perRequest: true,
    summary: 'A new request waits for a peer that is known to be lost, in case it is back.',
    end: 'The request fails with what was last known of the peer.',
    codes: ['ERR_KVX_PEER_LOST', 'ERR_KVX_BOOTSTRAP_UNREACHABLE'],
  },
  reserve: {
    default: 10_000,
    unit: 'ms',
    side: 'decode',
    perRequest: true,
    summary:
      'From `reserve()` until every prefill rank has answered, also while the reserve cannot be sent.',
    end: 'The request fails, and is aborted at prefill.',
    codes: ['ERR_KVX_TIMEOUT'],
  },
  pairing: {
    default: 60_000,
    unit: 'ms',
    side: 'both',
    perRequest: true,
    summary:
      'A leg that waits for the other side, which does not say that the request is queued there. prefill: `reserved()`, and a reserve that is parked because its prefill leg is not there (for this one the setting of the manager counts). decode: from the first answer until all legs are paired; before that, where prefill publishes which of its data-parallel ranks computes the request, until it has.',
    end: 'The leg that waits fails.',
    codes: ['ERR_KVX_TIMEOUT', 'ERR_KVX_ROOM_UNKNOWN', 'ERR_KVX_ROOM_CONSUMED'],
  },
  progress: {
    default: 300_000,
    unit: 'ms',
    side: 'both',
    perRequest: true,
    summary:
      'decode: paired, no further page has landed, and prefill does not say that the request is queued there; then the comparison of digests. prefill: it has asked for pages that decode allocates late (the setting of the manager).',
    end: 'The request fails, and is aborted at the other side.',
    codes: ['ERR_KVX_TIMEOUT'],
  },
  queue: {
    default: 1_800_000,
    unit: 'ms',
    side: 'both',
    perRequest: true,
    summary:
      'A request waits for its turn while the other side lives: in decode for pages, in prefill for pages and for the model. Until then the deadlines `pairing` and `progress` of the side that is ready begin again with every sign of it. The workers of kvx wait no longer for their own pages either.',
    end: 'The leg that waits fails, and with it the other.',
    codes: ['ERR_KVX_TIMEOUT', 'ERR_KVX_POOL_EXHAUSTED'],
  },
  transfer: {
    default: 30_000,
    unit: 'ms',
    side: 'prefill',
    perRequest: true,
    summary: 'One write, until the engine reports its end.',
    end: 'The request fails on both sides. Its pages stay taken until the write has settled.',
    codes: ['ERR_KVX_TRANSFER_TIMEOUT'],
  },
  linger: {
    default: 30_000,
    unit: 'ms',
    side: 'both',
    perRequest: true,
    summary:
      'prefill: `finish()` waits for the acknowledgement of decode; how long the outcome of a request and its room are remembered. decode: a bootstrap that no request uses is watched for so long (the setting of the manager).',
    end: 'The prefill leg fails. Who asks for a forgotten outcome is told so.',
    codes: ['ERR_KVX_TIMEOUT', 'ERR_KVX_OUTCOME_LOST'],
  },
  peerSilent: {
    default: 10_000,
    unit: 'ms',
    side: 'both',
    perRequest: false,
    summary:
      'Nothing was heard of a peer, not even `pong`. Engines that learn sooner that a peer has ended say so (`shm` does), and nothing is waited for.',
    end: 'The peer is lost: all its requests fail with its name. After half of it decode asks `query`.',
    codes: ['ERR_KVX_PEER_LOST'],
  },
  ping: {
    default: 2_000,
    unit: 'ms',
    side: 'decode',
    perRequest: false,
    summary: 'Between two pings of a peer; also between two greetings of a lost one.',
    end: 'The next `ping` is sent.',
    codes: [],
  },
  drain: {
    default: 5_000,
    unit: 'ms',
    side: 'both',
    perRequest: false,
    summary:
      'decode: `drained` after a failure. prefill: a failed write until it has settled. Also how long `close()` waits for what it has aborted.',
    end: 'The pages count as quarantined, which may make the engine be replaced. They are not freed.',
    codes: [],
  },
  recycle: {
    default: 10_000,
    unit: 'ms',
    side: 'both',
    perRequest: false,
    summary: 'How long running requests may go on before the engine is replaced.',
    end: 'What still runs fails; then the engine is closed and opened again.',
    codes: ['ERR_KVX_TRANSFER_FAILED'],
  },
} as const satisfies Record<keyof Deadlines, Setting>

export const limitTable = {
  parkedPerPeer: {
    default: 1_024,
    unit: 'requests',
    side: 'prefill',
    perRequest: false,
    summary: 'Reserves of one decode rank that wait for their prefill leg.',
    end: 'A further reserve without its prefill leg is refused.',
    codes: ['ERR_KVX_OVER_LIMIT'],
  },
  bytesInFlightPerPeer: {
    default: 1 << 30,
    unit: 'bytes',
    side: 'prefill',
    perRequest: false,
    summary: 'Written to one decode rank and not settled. A larger single write goes alone.',
    end: 'Further writes wait.',
    codes: [],
  },
  auxBytes: {
    default: 1 << 20,
    most: maxAuxBytes,
    unit: 'bytes',
    side: 'both',
    perRequest: false,
    summary: 'The blob that travels with the first token. prefill tells its limit in `welcome`.',
    end: 'prefill: `finish()` refuses it. decode: refuses what is larger than was told, or than its own.',
    codes: ['ERR_KVX_INVALID_ARGUMENT', 'ERR_KVX_AUX_TOO_LARGE'],
  },
  requests: {
    default: 65_536,
    unit: 'requests',
    side: 'both',
    perRequest: false,
    summary: 'Live requests of a manager, those that wait for `drained` counted.',
    end: '`send` and `receive` refuse.',
    codes: ['ERR_KVX_OVER_LIMIT'],
  },
  peers: {
    default: 4_096,
    unit: 'ranks',
    side: 'both',
    perRequest: false,
    summary:
      'Ranks of the other side that are known at once; decode: also bootstrap services that are watched.',
    end: 'A further `hello` or request is refused.',
    codes: ['ERR_KVX_OVER_LIMIT'],
  },
  stagingBytes: {
    default: 64 * 1024 ** 2,
    orZero: true,
    unit: 'bytes',
    side: 'both',
    perRequest: false,
    summary:
      'Memory through which short runs take their way, where the engine is faster so. Registered when the manager opens, divided into 16 bays; 0: none.',
    end: 'Loads wait for a bay, at most for a quarter of the deadline `transfer`; then they are written run by run.',
    codes: [],
  },
  quarantineShare: {
    default: 0.25,
    most: 1,
    unit: 'share',
    side: 'both',
    perRequest: false,
    summary: 'Share of the pool that may be in quarantine (engines of fence kind `engine`).',
    end: 'The engine is replaced although requests run; they get the `recycle` deadline.',
    codes: ['ERR_KVX_TRANSFER_FAILED'],
  },
} as const satisfies Record<keyof Limits, Setting>

/** Milliseconds, by name; what each bounds is in docs/configuration.md. */
export const defaultDeadlines: Readonly<Deadlines> = defaults(deadlineTable)
/** By name; what each bounds is in docs/configuration.md. */
export const defaultLimits: Readonly<Limits> = defaults(limitTable)

function defaults<K extends string>(table: Record<K, Setting>): Record<K, number> {
  const entries = Object.entries<Setting>(table).map(([name, setting]) => [name, setting.default])
  return Object.fromEntries(entries) as Record<K, number>
}

const ownership = exactly({
  role: v.picklist(['prefill', 'decode'], "'prefill' or 'decode'"),
  given: such<object>('an object', isObject),
  what: v.picklist(['deadline', 'limit'], "'deadline' or 'limit'"),
})

/** Whose settings they are: without a role, those of a whole deployment. */
export interface SettingsOwner {
  readonly role?: Role
  /** Of one request, not of the manager. */
  readonly isRequest?: boolean
}
type Role = 'prefill' | 'decode'

/**
 * @throws KvxError `ERR_KVX_INVALID_OPTION` for a name that does not exist, or does not for this role or for a request,
 *   and for a value that is no positive number or larger than there can be
 */
export function settings<T extends object>(
  defaults: Readonly<T>,
  given: Partial<T> | undefined,
  what: 'deadline' | 'limit',
  owner: SettingsOwner = {},
): T {
  const table: Record<string, Setting> = what === 'limit' ? limitTable : deadlineTable
  for (const [name, value] of Object.entries<unknown>(given ?? {})) {
    if (value === undefined) continue
    const wrong = objection(table, what, { name, value, owner })
    if (wrong !== undefined) {
      throw new KvxError('ERR_KVX_INVALID_OPTION', wrong, {
        phase: owner.isRequest ? 'reserve' : 'open',
      })
    }
  }
  const set = Object.entries(given ?? {}).filter(([, value]) => value !== undefined)
  return { ...defaults, ...Object.fromEntries(set) }
}

/**
 * Of deadlines or limits of a whole deployment, those that a manager of this role takes. A name that does not exist stays,
 * so that opening the manager refuses it.
 * @throws KvxError `ERR_KVX_INVALID_OPTION` for another role, or another kind of setting
 */
export function settingsFor<T extends object>(
  role: Role,
  given: Readonly<T>,
  what: 'deadline' | 'limit',
): T {
  checked(ownership, { role, given, what }, { name: '', code: 'ERR_KVX_INVALID_OPTION' })
  const table: Record<string, Setting> = what === 'limit' ? limitTable : deadlineTable
  const own = Object.entries(given).filter(([name]) => {
    const side = Object.hasOwn(table, name) ? table[name]?.side : undefined
    return side === undefined || side === 'both' || side === role
  })
  return Object.fromEntries(own) as T
}

function objection(
  table: Record<string, Setting>,
  what: string,
  { name, value, owner }: { name: string; value: unknown; owner: SettingsOwner },
): string | undefined {
  const { role, isRequest = false } = owner
  const setting = Object.hasOwn(table, name) ? table[name] : undefined
  const fits = ({ side, perRequest }: Setting) =>
    (role === undefined || side === 'both' || side === role) && (perRequest || !isRequest)
  const names = Object.keys(table).filter((other) => fits(table[other]!))
  const there = `There are: ${names.join(', ')}.`
  if (setting === undefined) return `There is no ${what} '${name}'. ${there}`
  if (!fits(setting)) {
    const owned =
      role === undefined || setting.side === 'both' || setting.side === role
        ? 'the manager, and a request has none of its own'
        : `${setting.side}, and ${role} does not have it`
    return `The ${what} '${name}' is one of ${owned}. ${there}`
  }
  const { most = Infinity, orZero = false } = setting
  if (value === 0 && orZero) return undefined
  if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) {
    return `The ${what} '${name}' must be a positive number${orZero ? ' or 0' : ''}, got ${shown(value)}.`
  }
  if (value > most) {
    return `The ${what} '${name}' can be ${String(most)} at most, got ${String(value)}.`
  }
  return undefined
}
