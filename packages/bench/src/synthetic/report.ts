/** What a synthetic run has found out. */
import type { ErrorCode } from '@kvx/contract'
import { ascending, quantile } from '../stats.ts'
import { costOf, type Cost } from './meter.ts'
import type { RankResult } from './rank.ts'

export interface RequestReport {
  readonly room: string
  /** `wrong`: bytes arrived that are not those that were sent. `aborted`: as it was to be. Else the code of what failed first. */
  readonly outcome: 'ok' | 'wrong' | 'aborted' | ErrorCode
  readonly message?: string
  readonly tokens: number
  /** That arrived at all decode ranks. */
  readonly bytes: number
  readonly verifiedBytes: number
  /** From `receive` until everything was there, at the slowest decode rank; prefill's filling of the pages is in it. */
  readonly ms: number
  /** How long bytes were on their way, at the slowest decode rank. */
  readonly transferMs: number
  /** Writes of prefill, at the decode rank that had most. */
  readonly chunks: number
  /** Of all ranks, when it was to be measured. */
  readonly cost?: Cost
}

export interface SyntheticReport {
  /** Every request went as it should, every byte is right, and every page came back. */
  readonly ok: boolean
  readonly engine: { readonly backend: string; readonly version: string }
  readonly model: string
  readonly layers: number
  readonly ranks: { readonly prefill: number; readonly decode: number }
  readonly requests: readonly RequestReport[]
  readonly total: {
    readonly requests: number
    readonly succeeded: number
    readonly aborted: number
    readonly wrong: number
    readonly failed: number
    readonly errors: Readonly<Record<string, number>>
    /** Of the requests that succeeded, as all that follows. */
    readonly tokens: number
    readonly bytes: number
    readonly verifiedBytes: number
    /** Bytes by the time that they were on their way. */
    readonly gigabytesPerSecond: number
    readonly p50Ms: number
    readonly p99Ms: number
    /** Of the whole run, from when all ranks were there. */
    readonly seconds: number
    /** That were not free after the last request. */
    readonly lostPages: number
  }
}

/** @param results of the ranks that took part, prefill's before decode's */
export function requestReport(
  room: string,
  tokens: number,
  { results, isAborted }: { results: readonly RankResult[]; isAborted: boolean },
): RequestReport {
  const sum = (of: (result: RankResult) => number | undefined) =>
    results.reduce((total, result) => total + (of(result) ?? 0), 0)
  const most = (of: (result: RankResult) => number | undefined) =>
    Math.max(0, ...results.map((result) => of(result) ?? 0))
  const costs = results.flatMap(({ cost }) => cost ?? [])
  const numbers = {
    ...{ room, tokens, bytes: sum(({ bytes }) => bytes) },
    verifiedBytes: sum(({ verifiedBytes }) => verifiedBytes),
    ms: most(({ ms }) => ms),
    transferMs: most(({ transferMs }) => transferMs),
    chunks: most(({ chunks }) => chunks),
    ...(costs.length > 0 && { cost: costOf(costs) }),
  }
  const errors = results.flatMap(({ error }) => error ?? [])
  const error = errors.find(({ code }) => code !== 'ERR_KVX_ABORTED') ?? errors[0]
  if (error !== undefined) {
    const isAsked = isAborted && error.code === 'ERR_KVX_ABORTED'
    return { ...numbers, outcome: isAsked ? 'aborted' : error.code, message: error.message }
  }
  const mismatch = results.find((result) => result.mismatch !== undefined)?.mismatch
  return mismatch === undefined
    ? { ...numbers, outcome: 'ok' }
    : { ...numbers, outcome: 'wrong', message: mismatch }
}

export function totalOf(
  requests: readonly RequestReport[],
  { seconds, lostPages }: { seconds: number; lostPages: number },
): SyntheticReport['total'] {
  const good = requests.filter(({ outcome }) => outcome === 'ok')
  const count = (wanted: string) => requests.filter(({ outcome }) => outcome === wanted).length
  const errors: Record<string, number> = {}
  for (const { outcome } of requests) {
    if (outcome.startsWith('ERR_')) errors[outcome] = (errors[outcome] ?? 0) + 1
  }
  const sum = (of: (request: RequestReport) => number) =>
    good.reduce((total, request) => total + of(request), 0)
  const times = ascending(good.map(({ ms }) => ms))
  const [bytes, ms] = [sum((one) => one.bytes), sum(({ transferMs }) => transferMs)]
  return {
    ...{ requests: requests.length, succeeded: good.length, errors, seconds, lostPages, bytes },
    ...{ aborted: count('aborted'), wrong: count('wrong') },
    failed: Object.values(errors).reduce((total, one) => total + one, 0),
    tokens: sum(({ tokens }) => tokens),
    verifiedBytes: sum(({ verifiedBytes }) => verifiedBytes),
    gigabytesPerSecond: ms === 0 ? 0 : bytes / ms / 1e6,
    p50Ms: quantile(times, 0.5),
    p99Ms: quantile(times, 0.99),
  }
}
