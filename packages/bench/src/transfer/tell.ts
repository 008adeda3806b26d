/** What moving whole caches has found, as tables, charts and measures. */
import type { Chart, Findings, Measure, Table } from '../report/findings.ts'
import { count, digits, spreadText } from '../report/text.ts'
import { ascending, mean, quantile, spreadOf } from '../stats.ts'
import type { ModelBenchResult, ModelRow, ModelSample } from './model.ts'

interface Column {
  readonly name: string
  readonly unit: string
  readonly better: 'higher' | 'lower'
  readonly of: (sample: ModelSample) => number
}

const columns: readonly Column[] = [
  { name: 'wire', unit: 'ms', better: 'lower', of: ({ wireMs }) => wireMs },
  { name: 'whole request', unit: 'ms', better: 'lower', of: ({ ms }) => ms },
  { name: 'moved', unit: 'MB', better: 'lower', of: ({ bytes }) => bytes / 1e6 },
  { name: 'speed', unit: 'GB/s', better: 'higher', of: speedOf },
  { name: 'operations', unit: 'pieces', better: 'lower', of: ({ cost }) => cost.operations },
  {
    name: 'a piece',
    unit: 'KiB',
    better: 'higher',
    of: ({ bytes, cost }) => bytes / Math.max(1, cost.operations) / 1024,
  },
  { name: 'chunks', unit: 'writes', better: 'lower', of: ({ chunks }) => chunks },
  {
    name: 'CPU per chunk',
    unit: 'µs',
    better: 'lower',
    of: ({ cost, chunks }) => (1_000 * cost.cpuMs) / Math.max(1, chunks),
  },
  {
    name: 'JavaScript per write',
    unit: 'µs',
    better: 'lower',
    of: ({ cost }) => (1_000 * cost.postMs) / Math.max(1, cost.writes),
  },
]

function speedOf({ bytes, wireMs }: ModelSample): number {
  return wireMs === 0 ? 0 : bytes / wireMs / 1e6
}

const limits = { memcpy: 'memcpy, one thread', largeCopy: 'one large copy' } as const

export function modelFindings(
  result: ModelBenchResult,
  settings: Readonly<Record<string, unknown>>,
  interrupted: boolean,
): Findings {
  const { rows, engine } = result
  const measured = rows.filter(({ samples }) => samples.length > 0)
  return {
    ok: measured.length > 0,
    ...{ interrupted, settings, result },
    versions: engine === undefined ? {} : { [engine.backend]: engine.version },
    measures: measured.flatMap(measuresOf),
    tables: [tableOf(rows)],
    charts: measured.length === 0 ? [] : [speedChart(measured)],
  }
}

function measuresOf({ input, samples }: ModelRow): Measure[] {
  return columns.flatMap(({ name, unit, better, of }): Measure[] => {
    const spread = spreadOf(samples.map(of))
    if (spread === undefined) return []
    const { median: value, least, most } = spread
    return [{ name: `${String(input)} tokens, ${name}`, unit, better, value, least, most }]
  })
}

function tableOf(rows: readonly ModelRow[]): Table {
  const measured = rows.filter(({ samples }) => samples.length > 0)
  const shares = Object.entries(limits).map(([key, name]) => ({
    name,
    of: (row: ModelRow) => spreadOf(row[key as keyof typeof limits]),
  }))
  return {
    title: 'Whole caches',
    head: ['Input tokens', 'Metric', 'median [least … most]'],
    rows: measured.flatMap((row) => {
      const speed = spreadOf(row.samples.map(speedOf))?.median ?? 0
      return [
        ...columns.map(({ name, unit, of }) => [
          ...[count(row.input), `${name}, ${unit}`],
          spreadText(spreadOf(row.samples.map(of))),
        ]),
        ...shares.flatMap(({ name, of }) => {
          const limit = of(row)
          if (limit === undefined) return []
          return [
            [count(row.input), `${name}, GB/s`, spreadText(limit)],
            [count(row.input), `share of ${name}`, `${digits((100 * speed) / limit.median)} %`],
          ]
        }),
      ]
    }),
    notes: rows.flatMap(({ input, reason }) =>
      reason === undefined ? [] : [`${count(input)} tokens were not measured: ${reason}`],
    ),
  }
}

function speedChart(rows: readonly ModelRow[]): Chart {
  const series: [string, (row: ModelRow) => readonly number[]][] = [
    ['cache', ({ samples }) => samples.map(speedOf)],
    [limits.memcpy, ({ memcpy }) => memcpy],
    [limits.largeCopy, ({ largeCopy }) => largeCopy],
  ]
  return {
    ...{ name: 'speed', title: 'Speed of whole caches', kind: rows.length > 1 ? 'line' : 'bar' },
    ...{ x: { label: 'input tokens', scale: 'log' }, y: { label: 'GB/s' } },
    points: series.flatMap(([name, of]) =>
      rows.flatMap((row) => {
        const spread = spreadOf(of(row))
        if (spread === undefined) return []
        const { median: y, least, most } = spread
        return [{ series: name, x: row.input, y, least, most }]
      }),
    ),
  }
}

/** Widths of the columns of NIXL's benchmark, whose names are in `nixlHead`. */
const widths = [20, 15, 15, 15, 15, 15, 15, 15, 15, 15]
const nixlHead = [
  ...['Block Size (B)', 'Batch Size', 'B/W (GB/Sec)', 'Avg Lat. (us)', 'Avg Prep (us)'],
  ...['P99 Prep (us)', 'Avg Post (us)', 'P99 Post (us)', 'Avg Tx (us)', 'P99 Tx (us)'],
]

/**
 * The columns of NIXL's benchmark, a line for each length: a block is a contiguous piece, on the average, and a batch all
 * pieces of a request. Prep is what a request takes beside moving bytes (finding each other, reserving, planning),
 * post the calls of `write`, tx the time while bytes were on their way, and latency tx by the pieces.
 */
export function nixlText({ rows }: ModelBenchResult): string {
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => cell.padEnd(widths[i] ?? 15))
      .join('')
      .trimEnd()
  const lines = rows
    .filter(({ samples }) => samples.length > 0)
    .map(({ samples }) => {
      const of = (value: (sample: ModelSample) => number): number[] => samples.map(value)
      const operations = mean(of(({ cost }) => cost.operations))
      const bytes = mean(of((sample) => sample.bytes))
      const pair = (values: readonly number[]): string[] =>
        [mean(values), quantile(ascending(values), 0.99)].map((ms) => (1_000 * ms).toFixed(1))
      const tx = of(({ wireMs }) => wireMs)
      return line([
        ...[(bytes / operations).toFixed(0), operations.toFixed(0)],
        (bytes / mean(tx) / 1e6).toFixed(6),
        ((1_000 * mean(tx)) / operations).toFixed(1),
        ...pair(of(({ ms, wireMs }) => ms - wireMs)),
        ...pair(of(({ cost }) => cost.postMs)),
        ...pair(tx),
      ])
    })
  return [line(nixlHead), '-'.repeat(160), ...lines, ''].join('\n')
}
