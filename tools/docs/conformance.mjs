/** What the suites said of the engines of kvx, from what `npm run test:versions -- --write` kept. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { suites } from '../../packages/conformance/dist/run.js'
import { root } from '../lib/repository.mjs'
import { code, table } from './table.mjs'

const results = Object.entries(
  JSON.parse(readFileSync(join(root, 'docs/engines/conformance.json'), 'utf8')),
)
const examined = results.filter(([, { suites }]) => suites !== undefined)
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0)

/** Checks that came after an engine was examined. */
const missed = (ran) =>
  sum(
    suites.map(({ name, checks }) => {
      const { passed = 0, skipped = 0 } = ran[name] ?? {}
      return Math.max(0, checks.length - passed - skipped)
    }),
  )

function engineTable() {
  const rows = results.map(([name, { date, suites: ran, refused }]) => {
    if (ran === undefined) return [code(name), `refused: ${refused}`, '', '', date]
    const counts = Object.values(ran)
    const of = (key) => String(sum(counts.map((count) => count[key])))
    return [code(name), of('passed'), of('skipped'), String(missed(ran)), date]
  })
  return table(['engine', 'passed', 'skipped', 'added since', 'run on'], rows)
}

/** Engines whose counts are the same share a column. */
function suiteTable() {
  const columns = new Map()
  for (const [name, { suites: ran }] of examined) {
    const cells = suites.map(({ name: suite }) => {
      const { passed = 0, skipped = 0 } = ran[suite] ?? {}
      return skipped === 0 ? String(passed) : `${passed} (${skipped} skipped)`
    })
    const key = cells.join()
    const column = columns.get(key) ?? { names: [], cells }
    column.names.push(code(name))
    columns.set(key, column)
  }
  const all = [...columns.values()]
  return table(
    ['suite', ...all.map(({ names }) => names.join(', '))],
    suites.map(({ name }, row) => [name, ...all.map(({ cells }) => cells[row])]),
  )
}

function skipTable() {
  const rows = new Map()
  for (const [name, { skipped }] of examined) {
    for (const [check, reason] of Object.entries(skipped)) {
      const key = `${check}\n${reason}`
      rows.set(key, [...(rows.get(key) ?? []), code(name)])
    }
  }
  return table(
    ['check', 'why it is skipped', 'for'],
    [...rows].map(([key, names]) => [...key.split('\n'), names.join(', ')]),
  )
}

export const conformanceTables = {
  'conformance-engines': engineTable,
  'conformance-suites': suiteTable,
  'conformance-skips': skipTable,
}
