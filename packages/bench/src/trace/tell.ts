/** What replaying a trace has found, as tables, charts and measures. */
import type { Chart, Findings, Measure } from '../report/findings.ts'
import { count, digits } from '../report/text.ts'
import { percentilesOf, sum } from '../stats.ts'
import type { TracePass, TraceRequest } from './run.ts'

interface Facts {
  readonly pass: TracePass
  readonly good: readonly TraceRequest[]
  readonly refused: number
  /** Neither answered nor refused, by code. */
  readonly failures: Readonly<Record<string, number>>
  /** Arrived, and never heard of again. */
  readonly lost: number
  readonly moved: number
  readonly saved: number
}

function factsOf(pass: TracePass): Facts {
  const { requests, arrived, bytesPerToken } = pass
  const good = requests.filter(({ outcome }) => outcome === 'ok')
  const failures: Record<string, number> = {}
  for (const { outcome } of requests) {
    if (outcome === 'ok' || outcome === 'refused') continue
    failures[outcome] = (failures[outcome] ?? 0) + 1
  }
  return {
    ...{ pass, good, failures, lost: arrived - requests.length },
    refused: requests.filter(({ outcome }) => outcome === 'refused').length,
    moved: sum(good.map(({ bytes = 0 }) => bytes)),
    saved: sum(good.map(({ prefixTokens = 0 }) => prefixTokens)) * bytesPerToken,
  }
}

const waits = {
  queue: ({ queueMs }: TraceRequest) => queueMs,
  'wait for pages': ({ pagesMs }: TraceRequest) => pagesMs,
  transfer: ({ transferMs }: TraceRequest) => transferMs,
  'until it was there': ({ arrivedMs }: TraceRequest) => arrivedMs,
} as const

/** @param passes those that are told, each at another speed; `others` were only tried, to find them */
export function traceFindings(
  passes: readonly TracePass[],
  others: readonly TracePass[],
  settings: Readonly<Record<string, unknown>>,
  interrupted: boolean,
): Findings {
  const all = passes.map(factsOf)
  const rows: [string, (facts: Facts) => string][] = [
    ['arrived', ({ pass }) => count(pass.arrived)],
    ['answered', ({ good }) => count(good.length)],
    ['refused (429)', ({ refused }) => count(refused)],
    ['failed', ({ failures }) => failureText(failures)],
    ['lost', ({ lost }) => count(lost)],
    ['leaked pages', ({ pass }) => count(pass.lostPages)],
    ['seconds', ({ pass }) => digits(pass.seconds)],
    [
      'prompt tokens a second',
      ({ pass, good }) => digits(sum(good.map(({ tokens }) => tokens)) / pass.seconds),
    ],
    ['moved, GB', ({ moved }) => digits(moved / 1e9)],
    [
      'saved by prefixes, GB',
      ({ saved, moved }) =>
        `${digits(saved / 1e9)} (${((100 * saved) / Math.max(1, saved + moved)).toFixed(0)} %)`,
    ],
    [
      'GB/s while on the way',
      ({ good, moved }) =>
        digits(moved / Math.max(1e-9, sum(good.map(({ transferMs = 0 }) => transferMs))) / 1e6),
    ],
    [
      'bytes verified, GB',
      ({ good }) => digits(sum(good.map(({ verifiedBytes = 0 }) => verifiedBytes)) / 1e9),
    ],
    ...Object.entries(waits).map(([name, of]): [string, (facts: Facts) => string] => [
      `${name}, ms: p50, p90, p99`,
      ({ good }) => {
        const { p50, p90, p99 } = percentilesOf(good.flatMap((request) => of(request) ?? []))
        return [p50, p90, p99].map(digits).join(', ')
      },
    ]),
  ]
  const [first] = passes
  return {
    ok: all.length > 0 && all.every((facts) => isSound(facts, interrupted)),
    ...{ interrupted, settings },
    versions: first === undefined ? {} : { [first.engine.backend]: first.engine.version },
    result: {
      passes,
      tried: others.map(({ speed, requests }) => ({
        speed,
        refused: requests.filter(({ outcome }) => outcome === 'refused').length,
      })),
    },
    measures: all.flatMap((facts, i) =>
      measuresOf(facts, ['', 'overload: '][i] ?? `pass ${String(i + 1)}: `),
    ),
    tables: [
      {
        title: 'The trace',
        head: ['what', ...all.map(({ pass }) => `at ${String(pass.speed)} times its speed`)],
        rows: rows.map(([name, of]) => [name, ...all.map(of)]),
        notes: [
          ...all.flatMap(({ pass }) => messagesOf(pass)),
          ...(others.length > 0
            ? [
                `Tried before: ${others.map(({ speed, requests }) => `${String(speed)} (${count(requests.filter(({ outcome }) => outcome === 'refused').length)} refused)`).join(', ')}.`,
              ]
            : []),
        ],
      },
    ],
    charts: all.length === 0 ? [] : [chartOf(all)],
  }
}

/** Being refused is what a full server does; everything else that is not an answer is wrong. */
function isSound({ good, failures, lost, pass }: Facts, interrupted: boolean): boolean {
  return (
    good.length > 0 &&
    Object.keys(failures).length === 0 &&
    pass.lostPages === 0 &&
    (interrupted || lost === 0)
  )
}

const failureText = (failures: Facts['failures']): string =>
  Object.entries(failures)
    .map(([code, times]) => `${count(times)} ${code}`)
    .join(', ') || '0'

function messagesOf({ requests }: TracePass): string[] {
  return requests
    .filter(({ message }) => message !== undefined)
    .slice(0, 3)
    .map(({ number, outcome, message = '' }) => `Line ${String(number)}: ${outcome}: ${message}`)
}

function measuresOf({ good, pass, refused }: Facts, prefix: string): Measure[] {
  const tokens = sum(good.map((request) => request.tokens))
  return [
    { name: `${prefix}speed`, unit: 'times', value: pass.speed, better: 'higher' },
    { name: `${prefix}prompt tokens`, unit: '1/s', value: tokens / pass.seconds, better: 'higher' },
    { name: `${prefix}refused`, unit: 'requests', value: refused, better: 'lower' },
    ...Object.entries(waits).flatMap(([name, of]) => {
      const { p50, p99 } = percentilesOf(good.flatMap((request) => of(request) ?? []))
      const common = { unit: 'ms', better: 'lower' } as const
      return [
        { ...common, name: `${prefix}${name} p50`, value: p50 },
        { ...common, name: `${prefix}${name} p99`, value: p99 },
      ]
    }),
  ]
}

function chartOf(all: readonly Facts[]): Chart {
  return {
    ...{ name: 'waits', title: 'Where the time of a request went, p99', kind: 'bar' },
    ...{ x: { label: 'times its speed' }, y: { label: 'ms' } },
    points: all.flatMap(({ pass, good }) =>
      Object.entries(waits).map(([series, of]) => ({
        ...{ series, x: String(pass.speed) },
        y: percentilesOf(good.flatMap((request) => of(request) ?? [])).p99,
      })),
    ),
  }
}
