/** What has changed since an earlier report. */
import type { ReportDocument } from './document.ts'
import type { Table } from './findings.ts'
import { digits } from './text.ts'

/** Every measure that both have, in the order of the present one; what they do not share is named below. */
export function comparison(now: ReportDocument, before: ReportDocument): Table {
  const earlier = new Map(before.measures.map((one) => [one.name, one]))
  const rows: string[][] = []
  for (const { name, unit, value, least, most, better } of now.measures) {
    const old = earlier.get(name)
    if (old?.unit !== unit) continue
    earlier.delete(name)
    const change = old.value === 0 ? Number.NaN : value / old.value - 1
    const apart =
      (least ?? value) > (old.most ?? old.value) || (most ?? value) < (old.least ?? old.value)
    const verdict = change > 0 === (better === 'higher') ? 'better' : 'worse'
    rows.push([
      ...[name, unit, digits(old.value), digits(value)],
      Number.isNaN(change) ? '–' : `${change > 0 ? '+' : ''}${(100 * change).toFixed(1)} %`,
      apart ? verdict : 'within the spread',
    ])
  }
  return {
    title: `Beside the baseline of ${before.startedAt}`,
    head: ['measure', 'unit', 'baseline', 'now', 'change', 'verdict'],
    rows,
    notes: differences(now, before, [...earlier.keys()]),
  }
}

function differences(now: ReportDocument, before: ReportDocument, missing: string[]): string[] {
  const notes: string[] = []
  const text = (value: unknown): string => (value === undefined ? 'not set' : JSON.stringify(value))
  const differ = (what: string, a: unknown, b: unknown): void => {
    const [was, is] = [text(a), text(b)]
    if (was !== is) notes.push(`${what} differs: ${was} then, ${is} now.`)
  }
  for (const name of new Set([...Object.keys(before.versions), ...Object.keys(now.versions)])) {
    differ(`The version of ${name}`, before.versions[name], now.versions[name])
  }
  for (const name of ['cpu', 'cores', 'system'] as const) {
    differ(`The machine (${name})`, before.machine[name], now.machine[name])
  }
  for (const name of new Set([...Object.keys(before.settings), ...Object.keys(now.settings)])) {
    differ(`The setting ${name}`, before.settings[name], now.settings[name])
  }
  const [first] = missing
  if (first !== undefined) {
    notes.push(
      `${String(missing.length)} measures of the baseline were not measured now, such as: ${first}.`,
    )
  }
  return notes
}
