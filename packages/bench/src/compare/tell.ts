/** What a comparison has found, as tables, charts and measures. */
import type { Chart, Findings, Measure, Table } from '../report/findings.ts'
import { count, spreadText } from '../report/text.ts'
import { ascending, mean, quantile, spreadOf, sum } from '../stats.ts'
import type { CompareResult, CompareSample, Contender, LoadSample } from './run.ts'

interface Metric<S> {
  readonly name: string
  readonly unit: string
  readonly better: 'higher' | 'lower'
  /** One value for each round. */
  readonly of: (samples: readonly S[]) => readonly number[]
}

const each =
  <S>(value: (sample: S) => number | undefined) =>
  (samples: readonly S[]): number[] =>
    samples.flatMap((sample) => value(sample) ?? [])

const ttfts = (samples: readonly CompareSample[]): number[] =>
  ascending(each<CompareSample>(({ ttftMs }) => ttftMs)(samples))

const metrics: readonly Metric<CompareSample>[] = [
  {
    ...{ name: 'throughput', unit: 'tokens/s', better: 'higher' },
    of: each(({ input, gapsMs, ms }) =>
      ms === undefined ? undefined : ((input + (gapsMs?.length ?? 0) + 1) / ms) * 1_000,
    ),
  },
  {
    name: 'TTFT mean',
    unit: 'ms',
    better: 'lower',
    of: (samples) => some(samples, mean(ttfts(samples))),
  },
  { name: 'TTFT p50', unit: 'ms', better: 'lower', of: (samples) => ttfts(samples) },
  {
    ...{ name: 'TTFT p99', unit: 'ms', better: 'lower' },
    of: (samples) => some(samples, quantile(ttfts(samples), 0.99)),
  },
  { name: 'ITL', unit: 'ms', better: 'lower', of: each(({ gapsMs }) => gapsMs && mean(gapsMs)) },
  { name: 'queue', unit: 'ms', better: 'lower', of: each(({ queueMs }) => queueMs) },
  { name: 'wire time', unit: 'ms', better: 'lower', of: each(({ wireMs }) => wireMs) },
  { name: 'moved', unit: 'MB', better: 'lower', of: each(({ bytes }) => bytes && bytes / 1e6) },
  {
    ...{ name: 'wire speed', unit: 'GB/s', better: 'higher' },
    of: each(({ bytes, wireMs }) =>
      bytes === undefined || !wireMs ? undefined : bytes / wireMs / 1e6,
    ),
  },
]

const some = (samples: readonly unknown[], value: number): number[] =>
  samples.length === 0 ? [] : [value]

const loadMetrics: readonly Metric<LoadSample>[] = [
  {
    ...{ name: 'throughput', unit: 'tokens/s', better: 'higher' },
    of: each(({ input, requests, failed, outputTokens, seconds }) =>
      requests === failed ? undefined : ((requests - failed) * input + outputTokens) / seconds,
    ),
  },
  {
    ...{ name: 'answers', unit: 'tokens/s', better: 'higher' },
    of: each(({ requests, failed, outputTokens, seconds }) =>
      requests === failed ? undefined : outputTokens / seconds,
    ),
  },
  ...([0.5, 0.99] as const).map((share) => ({
    ...{ name: `TTFT p${String(100 * share)}`, unit: 'ms', better: 'lower' as const },
    of: each<LoadSample>(({ ttftMs }) =>
      ttftMs.length === 0 ? undefined : quantile(ascending(ttftMs), share),
    ),
  })),
  {
    ...{ name: 'ITL', unit: 'ms', better: 'lower' },
    of: each(({ gapsMs }) => (gapsMs.length === 0 ? undefined : mean(gapsMs))),
  },
]

export function compareFindings(
  result: CompareResult,
  settings: Readonly<Record<string, unknown>>,
  interrupted: boolean,
): Findings {
  const { contenders, unfit, samples, loads } = result
  const inputs = [...new Set(samples.map(({ input }) => input))].sort((a, b) => a - b)
  const levels = [...new Set(loads.map(({ concurrency }) => concurrency))].sort((a, b) => a - b)
  const good = samples.filter(({ outcome }) => outcome !== 'failed')
  const one = compared(contenders, metrics, inputs, (name, input) =>
    good.filter((sample) => sample.contender === name && sample.input === input),
  )
  const many = compared(contenders, loadMetrics, levels, (name, level) =>
    loads.filter((sample) => sample.contender === name && sample.concurrency === level),
  )
  const named = (what: (at: number) => string, { cells }: Compared): Measure[] =>
    cells.flatMap(({ at, metric, contender, values }) => {
      const spread = spreadOf(values)
      if (spread === undefined) return []
      const { unit, better } = metric
      const { median: value, least, most } = spread
      return { name: `${contender}, ${what(at)}, ${metric.name}`, unit, better, value, least, most }
    })
  const versions = contenders.flatMap(({ name, version }) =>
    version === undefined ? [] : [[name, version] as const],
  )
  return {
    ok:
      samples.length > 0 &&
      samples.every(({ outcome }) => outcome === 'ok') &&
      loads.every(({ failed }) => failed === 0),
    ...{ interrupted, settings, result, versions: Object.fromEntries(versions) },
    measures: [
      ...named((input) => `${String(input)} tokens`, one),
      ...named((level) => `${String(level)} at once`, many),
    ],
    tables: [
      oneTable(result, one),
      ...(loads.length === 0 ? [] : [manyTable(contenders, many, loads)]),
    ],
    charts: [...charts(one, inputs), ...(loads.length === 0 ? [] : [concurrencyChart(many)])],
  }

  function oneTable({ samples: all }: CompareResult, { rows }: Compared): Table {
    return {
      title: 'One request at a time',
      head: ['Input tokens', 'Metric', ...contenders.map(({ name }) => name.toUpperCase())],
      rows,
      notes: [
        ...equality(all),
        ...unfit.map(({ input, reason }) => `${count(input)} tokens were not measured: ${reason}.`),
        ...contenders.flatMap(({ name, unavailable }) =>
          unavailable === undefined ? [] : [`${name.toUpperCase()} did not run: ${unavailable}`],
        ),
      ],
    }
  }
}

/** What was compared once for each cache dtype, as one: each has tables, charts and measures of its own. */
export function joinedFindings(
  parts: readonly { readonly kvCacheDtype: string; readonly findings: Findings }[],
  settings: Readonly<Record<string, unknown>>,
): Findings {
  const [only] = parts
  if (parts.length === 1 && only !== undefined) return only.findings
  const each = <T>(of: (findings: Findings, dtype: string) => readonly T[]): T[] =>
    parts.flatMap(({ findings, kvCacheDtype }) => of(findings, kvCacheDtype))
  return {
    ok: parts.length > 0 && parts.every(({ findings }) => findings.ok),
    interrupted: parts.some(({ findings }) => findings.interrupted),
    settings,
    versions: Object.assign({}, ...parts.map(({ findings }) => findings.versions)) as Record<
      string,
      string
    >,
    result: Object.fromEntries(
      parts.map(({ findings, kvCacheDtype: of }) => [of, findings.result]),
    ),
    measures: each(({ measures }, dtype) =>
      measures.map((measure) => ({ ...measure, name: `${dtype}, ${measure.name}` })),
    ),
    tables: each(({ tables }, dtype) =>
      tables.map((table) => ({ ...table, title: `${table.title}, cache dtype ${dtype}` })),
    ),
    charts: each(({ charts: drawn }, dtype) =>
      drawn.map((chart) => ({
        ...chart,
        name: `${chart.name}-${dtype}`,
        title: `${chart.title}, cache dtype ${dtype}`,
      })),
    ),
  }
}

interface Compared {
  readonly rows: string[][]
  readonly cells: readonly {
    readonly at: number
    readonly metric: Metric<never>
    readonly contender: string
    readonly values: readonly number[]
  }[]
}

function compared<S>(
  contenders: readonly Contender[],
  list: readonly Metric<S>[],
  places: readonly number[],
  samplesOf: (contender: string, place: number) => readonly S[],
): Compared {
  const cells = places.flatMap((at) =>
    list.flatMap((metric) =>
      contenders.map(({ name }) => ({
        at,
        metric,
        contender: name,
        values: metric.of(samplesOf(name, at)),
      })),
    ),
  )
  const rows = places.flatMap((at) =>
    list.map((metric) => [
      ...[count(at), `${metric.name}, ${metric.unit}`],
      ...cells
        .filter((cell) => cell.at === at && cell.metric === metric)
        .map(({ values }) => spreadText(spreadOf(values))),
    ]),
  )
  return { rows, cells }
}

function equality(samples: readonly CompareSample[]): string[] {
  const engines = [...new Set(samples.map(({ contender }) => contender))].filter(
    (name) => name !== 'standalone',
  )
  if (!samples.some(({ contender }) => contender === 'standalone')) return []
  const lines = engines.map((name) => {
    const own = samples.filter(({ contender }) => contender === name)
    const right = own.filter(({ outcome }) => outcome === 'ok').length
    return `${name.toUpperCase()}: ${String(right)} of ${String(own.length)} answers equal those of one process, token by token.`
  })
  const wrong = samples.filter(({ outcome }) => outcome !== 'ok').slice(0, 3)
  return [
    ...lines,
    ...wrong.map(
      ({ contender, input, round, message = '' }) =>
        `${contender}, ${count(input)} tokens, round ${String(round)}: ${message}`,
    ),
  ]
}

function manyTable(
  contenders: readonly Contender[],
  { rows }: Compared,
  loads: readonly LoadSample[],
): Table {
  const [{ input } = { input: 0 }] = loads
  const failed = sum(loads.map((load) => load.failed))
  const message = loads.find((load) => load.message !== undefined)?.message
  return {
    title: `Several requests at once, ${count(input)} tokens each: two standalone workers, or prefill and decode`,
    head: [
      ...['At once', 'Metric'],
      ...contenders.map(({ name }) =>
        name === 'standalone' ? '2 × STANDALONE' : name.toUpperCase(),
      ),
    ],
    rows,
    notes:
      message === undefined ? [] : [`${count(failed)} requests failed, such as with ${message}`],
  }
}

function points({ cells }: Compared, name: string): Chart['points'] {
  return cells.flatMap(({ at, metric, contender, values }) => {
    const spread = metric.name === name ? spreadOf(values) : undefined
    if (spread === undefined) return []
    const { median: y, least, most } = spread
    return [{ series: contender, x: at, y, least, most }]
  })
}

function charts(one: Compared, inputs: readonly number[]): Chart[] {
  const x = { label: 'input tokens', scale: 'log' as const }
  const made = [
    ['ttft', 'TTFT p50', 'Time to the first token', 'ms'],
    ['wire-speed', 'wire speed', 'Speed while bytes were on their way', 'GB/s'],
    ['itl', 'ITL', 'Time between tokens', 'ms'],
  ].map(([name = '', metric = '', title = '', label = '']): Chart => {
    const kind = inputs.length > 1 ? 'line' : 'bar'
    return { name, title, kind, x, y: { label }, points: points(one, metric) }
  })
  return made.filter((chart) => chart.points.length > 0)
}

function concurrencyChart(many: Compared): Chart {
  return {
    ...{ name: 'concurrency', title: 'Throughput of two processes', kind: 'bar' },
    x: { label: 'requests at once' },
    ...{ y: { label: 'tokens/s' }, points: points(many, 'throughput') },
  }
}
