import { readFileSync } from 'node:fs'
import { runConformance } from '@kvx/conformance/run'
import { expect, test } from 'vitest'
import { buildBroken } from './broken/build.ts'
import { brokenEngines } from './broken/list.ts'

const deviceWork = new URL('./broken/device-work.mjs', import.meta.url)

test.concurrent.each(brokenEngines)(
  '$caughtBy catches an engine that is broken: $name',
  { timeout: 120_000 },
  async (engine) => {
    const outcomes = await runConformance(
      { backend: buildBroken(engine), deviceWork },
      { only: [engine.caughtBy], stopAtFailure: true },
    )
    const failed = outcomes.find(({ outcome }) => outcome === 'failed')
    expect(failed?.reason).toMatch(/The contract says of|^A write that is right failed/)
  },
)

test('the table in docs/engines/conformance.md is this list', () => {
  const page = readFileSync(
    new URL('../../../docs/engines/conformance.md', import.meta.url),
    'utf8',
  )
  const [, table = ''] = page.split('## That the suites notice')
  const rows = [...table.matchAll(/^\| (.+?) +\| (.+?) +\|$/gm)].slice(2)
  expect(rows.map(([, name, caughtBy]) => [name, caughtBy])).toEqual(
    brokenEngines.map(({ name, caughtBy }) => [name, caughtBy]),
  )
})
