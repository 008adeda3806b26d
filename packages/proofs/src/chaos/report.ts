/** A run as text that a person reads, in Markdown. */
import { phases } from './phases.ts'
import { kinds } from './plan.ts'
import type { Report } from './run.ts'

export function reportText({ made, verdicts, recoveries, took }: Report): string {
  const engines = [...new Set(made.map(({ engine }) => engine))]
  const tables = engines.map((engine) => {
    const mine = made.filter((one) => one.engine === engine)
    const rows = [...phases, undefined].map((phase) => {
      const hits = mine.filter((one) => one.phase === phase)
      const counts = kinds.map((kind) => hits.filter(({ fault }) => fault.kind === kind).length)
      return [phase ?? 'none', ...counts, hits.length]
    })
    // A fault that missed: its request had just ended, or its legs had not arrived.
    const shown = rows.filter(([phase, ...counts]) => phase !== 'none' || counts.at(-1) !== 0)
    return [`${engine}: faults by recorded phase`, '', ...table(['phase', ...kinds, 'all'], shown)]
  })
  const victims = ['prefill', 'decode', 'router', 'client']
    .map((name) => `${name} ${String(made.filter(({ fault }) => fault.victim === name).length)}`)
    .join(', ')
  const affected = verdicts.filter((verdict) => verdict.kind === 'affected')
  const codes = [...new Set(affected.map(({ code }) => code))].sort()
  const durations = codes.map((code) => {
    const times = affected.filter((one) => one.code === code).map(({ ms }) => ms)
    return [code, times.length, median(times), Math.max(...times)]
  })
  const counted = (kind: string) => verdicts.filter((verdict) => verdict.kind === kind).length
  return [
    ...tables.flatMap((lines) => [...lines, '']),
    `Victims: ${victims}.`,
    '',
    ...table(['affected requests ended with', 'requests', 'median ms', 'most ms'], durations),
    '',
    `Requests: ${String(verdicts.length)}; ok, with the tokens of one process ${String(counted('ok'))}, ` +
      `affected ${String(affected.length)}, aborted by us ${String(counted('aborted'))}, ` +
      `turned away before they began ${String(counted('refused'))}, wrong ${String(counted('wrong'))}.`,
    `Affected requests had their error after ${spread(affected.map(({ ms }) => ms))}.`,
    `After a repair the first new request had its whole answer within ${spread(recoveries)}.`,
    `${String(made.length)} faults in ${(took / 60_000).toFixed(1)} min.`,
    '',
  ].join('\n')
}

export function table(
  heads: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string[] {
  const widths = heads.map((head, i) =>
    Math.max(head.length, ...rows.map((row) => String(row[i]).length)),
  )
  const line = (cells: readonly (string | number)[]) =>
    `| ${cells.map((cell, i) => (typeof cell === 'number' ? String(cell).padStart(widths[i]!) : cell.padEnd(widths[i]!))).join(' | ')} |`
  return [
    line(heads),
    `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`,
    ...rows.map(line),
  ]
}

const spread = (times: readonly number[]) =>
  times.length === 0
    ? 'no time: there was none'
    : `${String(median(times))} ms (median), ${String(Math.max(...times))} ms at most`

function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other)
  return sorted[Math.floor(sorted.length / 2)] ?? 0
}
