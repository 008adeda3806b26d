/** Frames that are no message of this version: what of them can be read all the same. */
import type { KvxError } from '@kvx/contract'

/** Whom a frame is from, for and about, as far as it says so. In every version of the protocol it says so alike. */
export interface Envelope {
  readonly k?: string
  readonly from?: string
  readonly to?: string
  readonly gen?: string
}

/** What a frame that is no message has to say. */
export interface Unreadable {
  readonly envelope: Envelope
  /** `ERR_KVX_VERSION_MISMATCH` or `ERR_KVX_PROTOCOL` */
  readonly error: KvxError
}

/** @param frame whatever was decoded; undefined when not even that was possible */
export function readEnvelope(frame: unknown): Envelope {
  if (typeof frame !== 'object' || frame === null) return {}
  const fields = frame as Record<string, unknown>
  const named = (['from', 'to', 'gen'] as const).filter((name) => isHex128(fields[name]))
  return {
    ...(typeof fields.k === 'string' ? { k: fields.k } : {}),
    ...Object.fromEntries(named.map((name) => [name, fields[name]])),
  }
}

function isHex128(value: unknown): boolean {
  return typeof value === 'string' && /^[0-9a-f]{32}$/.test(value)
}
