/** The coverage table: rows are a kind of message in a state of its receiver, columns are faults. */
import { universe, type CoverageRows } from '../checks/coverage.ts'
import { faultNames } from '../shape/faults.ts'
import { reasonOf } from '../checks/unreachable.ts'

/** Markdown. Short numbers; `–` where nothing can be, `0` where nothing was. */
export function coverageTable(rows: CoverageRows): string {
  const lines = [
    `| at | message | state | ${faultNames.join(' | ')} |`,
    `| --- | --- | --- | ${faultNames.map(() => '---:').join(' | ')} |`,
  ]
  for (const { side, kind, state } of universe) {
    const counts = rows[`${side} ${kind} ${state}`]
    if (!counts && faultNames.every((name) => reasonOf(side, kind, state, name) !== undefined))
      continue
    const fields = faultNames.map((name, i) => {
      const count = counts?.[i] ?? 0
      return count === 0 && reasonOf(side, kind, state, name) !== undefined ? '–' : short(count)
    })
    lines.push(`| ${side} | ${kind} | ${state} | ${fields.join(' | ')} |`)
  }
  return lines.join('\n')
}

function short(count: number): string {
  if (count < 10_000) return String(count)
  if (count < 10_000_000) return `${Math.round(count / 1_000)}k`
  return `${Math.round(count / 1_000_000)}M`
}
