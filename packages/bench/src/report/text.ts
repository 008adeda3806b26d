/** Numbers and tables as a terminal shows them; the tables are Markdown too. */
import type { Spread } from '../stats.ts'
import type { Table } from './findings.ts'

/** Three digits that count, and all of those before the point. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return '–'
  const size = Math.abs(value)
  if (size === 0) return '0'
  const places = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.01 ? 3 : 5
  return value.toLocaleString('en', {
    minimumFractionDigits: places,
    maximumFractionDigits: places,
  })
}

/** `median [least … most]`. */
export function spreadText(spread: Spread | undefined): string {
  if (spread === undefined) return '–'
  const { median, least, most } = spread
  if (least === most) return digits(median)
  return `${digits(median)} [${digits(least)} … ${digits(most)}]`
}

export const count = (value: number): string => value.toLocaleString('en')

export function tableText({ title, head, rows, notes = [] }: Table): string {
  const all = [head, ...rows]
  const widths = head.map((_, i) => Math.max(3, ...all.map((row) => (row[i] ?? '').length)))
  const line = (row: readonly string[]): string =>
    `| ${widths.map((width, i) => (row[i] ?? '').padEnd(width)).join(' | ')} |`
  const rule = `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`
  const below = notes.map((note) => `\n${note}\n`).join('')
  return `${title}\n\n${[line(head), rule, ...rows.map(line)].join('\n')}\n${below}`
}
