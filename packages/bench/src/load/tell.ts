/** What a load has found, as tables, charts and measures. */
import type { Chart, Findings, Measure, Table } from '../report/findings.ts'
import { count, digits } from '../report/text.ts'
import { percentilesOf, slopeOf } from '../stats.ts'
import type { LoadRequest, LoadResult } from './run.ts'

/** What a server that is full answers: a refusal, not a failure. */
export const refusal = 'ERR_KVX_OVER_LIMIT'

/** `aborted`: the run was ended meanwhile. */
const isEnded = ({ outcome }: LoadRequest): boolean => outcome !== 'aborted'

export function loadFindings(
  { requests: all, ...result }: LoadResult,
  settings: Readonly<Record<string, unknown>>,
  interrupted: boolean,
  versions: Readonly<Record<string, string>> = {},
): Findings {
  const requests = all.filter(isEnded)
  const good = requests.filter(({ outcome }) => outcome === 'ok')
  const codes = [...new Set(requests.map(({ outcome }) => outcome))].filter((code) => code !== 'ok')
  const failed = requests.filter(({ outcome }) => outcome !== 'ok' && outcome !== refusal)
  const wrong = good.filter(({ equal }) => equal === false).length
  const checked = good.filter(({ equal }) => equal !== undefined).length
  const times = latencies(good)
  const slopes = slopesOf(result.memory)
  const { leakedPages, unchecked, uncheckedReason, seconds } = result
  return {
    ok:
      failed.length === 0 &&
      wrong === 0 &&
      leakedPages === 0 &&
      good.length > 0 &&
      (interrupted || unchecked === 0),
    ...{ interrupted, settings, versions, result: { requests: all, ...result } },
    measures: measuresOf(times, good.length / seconds),
    tables: [
      {
        title: 'Requests',
        head: ['what', 'how many'],
        rows: [
          ['arrived', count(requests.length)],
          ['answered', `${count(good.length)}, ${digits(good.length / seconds)} a second`],
          ...codes.map((code) => [
            code,
            count(requests.filter(({ outcome }) => outcome === code).length),
          ]),
          ['compared with one process', `${count(checked)}, of which ${count(wrong)} differ`],
          ['leaked pages', count(leakedPages)],
        ],
        notes: [
          ...failed.slice(0, 3).map(({ number, outcome, message = '' }) => {
            return `Request ${String(number)}: ${outcome}: ${message}`
          }),
          ...(unchecked > 0
            ? [
                `${count(unchecked)} answers were to be compared and were not${uncheckedReason === undefined ? '.' : `: ${uncheckedReason}`}`,
              ]
            : []),
        ],
      },
      latencyTable(times),
      memoryTable(slopes),
    ],
    charts: [timeChart(good), memoryChart(result.memory)].filter(({ points }) => points.length > 0),
  }
}

type Times = readonly (readonly [name: string, values: readonly number[]])[]

function latencies(good: readonly LoadRequest[]): Times {
  const each = (of: (request: LoadRequest) => number | undefined): number[] =>
    good.flatMap((request) => of(request) ?? [])
  return [
    ['TTFT', each(({ ttftMs }) => ttftMs)],
    ['ITL', good.flatMap(({ gapsMs = [] }) => gapsMs)],
    ['queue', each(({ queueMs }) => queueMs)],
    ['wire', each(({ wireMs }) => wireMs)],
    ['held back by the client', each(({ heldMs }) => heldMs)],
  ]
}

function latencyTable(times: Times): Table {
  return {
    title: 'Milliseconds',
    head: ['what', 'mean', 'p50', 'p90', 'p99', 'most'],
    rows: times.map(([name, values]) => {
      const { mean, p50, p90, p99, most } = percentilesOf(values)
      return [name, ...[mean, p50, p90, p99, most].map(digits)]
    }),
  }
}

function measuresOf(times: Times, rate: number): Measure[] {
  return [
    { name: 'answered', unit: '1/s', value: rate, better: 'higher' },
    ...times.flatMap(([name, values]): Measure[] => {
      if (values.length === 0) return []
      const { p50, p99 } = percentilesOf(values)
      const common = { unit: 'ms', better: 'lower' } as const
      return [
        { ...common, name: `${name} p50`, value: p50 },
        { ...common, name: `${name} p99`, value: p99 },
      ]
    }),
  ]
}

interface Slope {
  readonly process: string
  readonly first: number
  readonly last: number
  /** Bytes a second, over the second half: the first one fills caches. */
  readonly slope: number
}

function slopesOf(memory: LoadResult['memory']): Slope[] {
  return [...new Set(memory.map(({ process }) => process))].map((process) => {
    const own = memory.filter((sample) => sample.process === process)
    const half = own.slice(Math.floor(own.length / 2))
    return {
      process,
      ...{ first: own[0]?.bytes ?? 0, last: own.at(-1)?.bytes ?? 0 },
      slope: slopeOf(half.map(({ seconds, bytes }) => [seconds, bytes])),
    }
  })
}

function memoryTable(slopes: readonly Slope[]): Table {
  return {
    title: 'Private memory, MB',
    head: ['process', 'at first', 'at last', 'slope over the second half, MB a minute'],
    rows: slopes.map(({ process, first, last, slope }) => [
      ...[process, digits(first / 1e6), digits(last / 1e6)],
      digits((slope * 60) / 1e6),
    ]),
  }
}

/** So many stretches of a run are shown. */
const stretches = 40

function timeChart(good: readonly LoadRequest[]): Chart {
  const end = Math.max(0, ...good.map(({ arrivedSeconds }) => arrivedSeconds))
  const each = Math.max(1e-9, end / stretches)
  const points = Array.from({ length: stretches }, (_, i) => {
    const own = good.filter(
      ({ arrivedSeconds }) => Math.min(stretches - 1, Math.floor(arrivedSeconds / each)) === i,
    )
    const { p50, p99 } = percentilesOf(own.flatMap(({ ttftMs }) => ttftMs ?? []))
    const x = (i + 0.5) * each
    return own.length === 0
      ? []
      : [
          { series: 'p50', x, y: p50 },
          { series: 'p99', x, y: p99 },
        ]
  }).flat()
  return {
    ...{ name: 'ttft', title: 'Time to the first token over the run', kind: 'line' },
    ...{ x: { label: 'seconds' }, y: { label: 'ms' }, points },
  }
}

function memoryChart(memory: LoadResult['memory']): Chart {
  return {
    ...{ name: 'memory', title: 'Private memory of each process', kind: 'line' },
    ...{ x: { label: 'seconds' }, y: { label: 'MB' } },
    points: memory.map(({ process, seconds, bytes }) => {
      return { series: process, x: seconds, y: bytes / 1e6 }
    }),
  }
}
