import { KvxError } from '../backend/index.ts'
import type { Deadlines, Limits } from '../manager/types.ts'

/** Milliseconds. All are on by default. */
export const defaultDeadlines: Readonly<Deadlines> = {
  hello: 15_000,
  reserve: 10_000,
  pairing: 60_000,
  progress: 300_000,
  transfer: 30_000,
  linger: 30_000,
  peerSilent: 10_000,
  ping: 2_000,
  drain: 5_000,
  recycle: 10_000,
}

export const defaultLimits: Readonly<Limits> = {
  parkedPerPeer: 1_024,
  bytesInFlightPerPeer: 1 << 30,
  auxBytes: 1 << 20,
  requests: 65_536,
  quarantineShare: 0.25,
}

/** @throws KvxError `ERR_KVX_INVALID_OPTION` for a name that does not exist or a value that is no positive number */
export function settings<T extends object>(
  defaults: Readonly<T>,
  given: Partial<T> | undefined,
  what: string,
): T {
  for (const [name, value] of Object.entries(given ?? {})) {
    if (!Object.hasOwn(defaults, name)) {
      throw new KvxError(
        'ERR_KVX_INVALID_OPTION',
        `There is no ${what} '${name}'. There are: ${Object.keys(defaults).join(', ')}.`,
      )
    }
    if (
      value !== undefined &&
      !(typeof value === 'number' && value > 0 && Number.isFinite(value))
    ) {
      throw new KvxError(
        'ERR_KVX_INVALID_OPTION',
        `The ${what} '${name}' must be a positive number.`,
      )
    }
  }
  const set = Object.entries(given ?? {}).filter(([, value]) => value !== undefined)
  return { ...defaults, ...Object.fromEntries(set) }
}
