/** Was how a request ended right, given the faults that it lived through? */
import { faultCodes } from '../chaos/judge.ts'
import { isHarmless, type Window } from './faults.ts'
import type { End } from './worker.ts'

export interface Asked {
  readonly number: number
  readonly prefill: string
  readonly decode: string
  readonly startedAt: number
  readonly isAborted: boolean
  readonly endedAt: number
  readonly ends: { readonly prefill: End; readonly decode: End }
}

export type Verdict =
  | { readonly kind: 'ok' | 'aborted' }
  /** A fault explains its end. */
  | { readonly kind: 'affected'; readonly code: string; readonly ms: number }
  | { readonly kind: 'wrong' | 'lost'; readonly why: string }

/** How a leg ends that nobody has told anything for too long. */
export const lost: End = { code: 'lost' }

/** @param withinMs milliseconds that an error may take */
export function judge(asked: Asked, windows: readonly Window[], withinMs: number): Verdict {
  const { prefill, decode } = asked.ends
  const told = `prefill: ${textOf(prefill)}; decode: ${textOf(decode)}`
  const wrong = (why: string): Verdict => ({ kind: 'wrong', why: `${why} (${told})` })
  if (prefill.code === 'lost' || decode.code === 'lost') return { kind: 'lost', why: told }
  if (decode.code === 'wrong') return wrong('wrong bytes')
  if (prefill.code === 'ok' && decode.code === 'ok') return { kind: 'ok' }
  if (prefill.code === 'ok' && decode.code !== 'gone')
    return wrong('prefill was told that it has succeeded, and it has not')
  const lived = windows.filter(
    ({ from, until }) => asked.startedAt < until && asked.endedAt >= from,
  )
  for (const [leg, name] of [
    [prefill, asked.prefill],
    [decode, asked.decode],
  ] as const) {
    if (leg.code === 'gone' && !lived.some((one) => one.kind === 'kill' && one.victim === name))
      return wrong('a process that nobody has killed is gone')
  }
  const codes = [prefill, decode].map(({ code }) => code).filter((code) => code !== 'ok')
  // A decode leg that is aborted before it has reserved says nothing: prefill waits for it in vain.
  const isUnheard = decode.code === 'ERR_KVX_ABORTED' && prefill.code === 'ERR_KVX_TIMEOUT'
  if (asked.isAborted && (isUnheard || codes.every((code) => code === 'ERR_KVX_ABORTED')))
    return { kind: 'aborted' }
  const cause = lived.findLast(({ kind }) => !isHarmless(kind))
  if (cause === undefined) return wrong('no fault concerned it, but it failed')
  const strange = codes.find(
    (code) =>
      code !== 'gone' && !faultCodes.has(code) && !(asked.isAborted && code === 'ERR_KVX_ABORTED'),
  )
  if (strange !== undefined) return wrong(`a fault does not explain ${strange}`)
  const ms = asked.endedAt - Math.max(asked.startedAt, cause.from)
  if (ms > withinMs) return wrong(`its error came after ${String(ms)} ms`)
  const code = codes.find((one) => one !== 'gone' && one !== 'ERR_KVX_ABORTED') ?? codes[0]!
  return { kind: 'affected', code, ms }
}

const textOf = ({ code, message }: End) => (message === undefined ? code : `${code}: ${message}`)
