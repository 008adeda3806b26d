/** Was what became of a request right, given the faults that it lived through? */
import type { Asked } from './load.ts'
import type { Cut, Fault } from './plan.ts'
import { errorWithinMs } from './settings.ts'

/** The time in which a fault may affect requests: until the deployment works as before. */
export interface Window {
  readonly fault: Fault | Cut
  readonly from: number
  /** Infinity while it is open. */
  until: number
  /** Whom it may affect: everybody who was there, or those alone. */
  readonly mayAffect: 'all' | ReadonlySet<Asked>
  /** Requests that a worker was told to finish before it ends. */
  readonly spared: ReadonlySet<Asked>
}

export type Verdict =
  | { readonly kind: 'ok' | 'aborted' | 'refused' }
  /** By `code`, `ms` after the fault, or after it was asked. */
  | { readonly kind: 'affected'; readonly code: string; readonly ms: number }
  | { readonly kind: 'wrong'; readonly why: string }

/** Codes with which a fault may end a request. Anything else is a defect, or hides the cause. */
export const faultCodes: ReadonlySet<string> = new Set(
  [
    ...['PEER_LOST', 'TIMEOUT', 'CONNECT_FAILED', 'TRANSFER_FAILED', 'TRANSFER_TIMEOUT'],
    ...[
      'BOOTSTRAP_UNREACHABLE',
      'BOOTSTRAP_INCOMPLETE',
      'OUTCOME_LOST',
      'STALE',
      'CLOSED',
      'ROOM_UNKNOWN',
    ],
  ].map((name) => `ERR_KVX_${name}`),
)

/**
 * @param asked has ended
 * @param withinMs milliseconds that an error may take
 */
export function judge(asked: Asked, windows: readonly Window[], withinMs = errorWithinMs): Verdict {
  const { outcome, startedAt, endedAt = Infinity } = asked
  if (outcome === undefined) return wrong('it has not ended')
  if (outcome.kind === 'hung') return wrong('nothing came for too long')
  const lived = windows.filter(({ from, until }) => startedAt < until && endedAt >= from)
  const concerning = lived.filter(({ mayAffect }) => mayAffect === 'all' || mayAffect.has(asked))
  if (outcome.kind === 'aborted') {
    return concerning.some(({ fault }) => fault.kind === 'abort')
      ? { kind: 'aborted' }
      : wrong('it was aborted, and no fault did it')
  }
  if (outcome.kind === 'refused') {
    return concerning.some(({ fault }) => asked.direct || fault.victim === 'router')
      ? { kind: 'refused' }
      : wrong('the connection was refused while the router ran')
  }
  // Turned away before anything was done for it.
  if (outcome.kind === 'error' && outcome.error.code === 'ERR_KVX_DRAINING') {
    return concerning.some(({ fault, spared }) => fault.kind === 'term' && !spared.has(asked))
      ? { kind: 'refused' }
      : wrong('it was turned away by a process that nobody had asked to end')
  }
  const expected = asked.expected
  const { tokens } = outcome
  const agrees = tokens.every((token, i) => token === expected[i])
  if (!agrees || tokens.length > expected.length) {
    return wrong(
      `the tokens ${tokens.join(' ')} are not those of one process: ${expected.join(' ')}`,
    )
  }
  if (outcome.kind === 'ok') {
    return tokens.length === expected.length
      ? { kind: 'ok' }
      : wrong(
          `the answer ended after ${String(tokens.length)} of ${String(expected.length)} tokens`,
        )
  }

  const what =
    outcome.kind === 'error' ? `${outcome.error.code}: ${outcome.error.message}` : outcome.reason
  const cause = concerning.findLast(({ spared }) => !spared.has(asked))
  if (cause === undefined) {
    return wrong(
      lived.some(({ spared }) => spared.has(asked))
        ? `it ran in a worker that was asked to end, which it should have finished: ${what}`
        : `no fault concerned it, but it failed: ${what}`,
    )
  }
  const ms = endedAt - Math.max(startedAt, cause.from)
  if (ms > withinMs) return wrong(`its error came after ${String(ms)} ms: ${what}`)
  if (outcome.kind === 'error') {
    const { code, phase, peer } = outcome.error
    if (!faultCodes.has(code)) return wrong(`a fault does not explain ${what}`)
    if (!phase || !peer)
      return wrong(`the error names no phase or no peer: ${JSON.stringify(outcome.error)}`)
    return { kind: 'affected', code, ms }
  }
  // Through a living router, only an answer that has begun can break: else there is room for an error.
  const mayBreak =
    asked.direct || tokens.length > 0 || concerning.some(({ fault }) => fault.victim === 'router')
  return mayBreak
    ? { kind: 'affected', code: 'connection ended', ms }
    : wrong(`the connection ended without an error: ${what}`)
}

const wrong = (why: string): Verdict => ({ kind: 'wrong', why })
