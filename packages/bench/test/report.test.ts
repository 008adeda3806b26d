/** What does a report tell, and can it be read again? */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  beginReport,
  comparison,
  documentOf,
  pageOf,
  readDocument,
  svgOf,
  tableText,
  type Chart,
  type Findings,
  type Measure,
} from '../src/index.ts'

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-report-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const measure = (name: string, value: number, more: Partial<Measure> = {}): Measure => ({
  ...{ name, value, unit: 'ms', better: 'lower' },
  ...more,
})

const findings = (measures: readonly Measure[], settings = {}): Findings => ({
  ...{ ok: true, interrupted: false, settings, versions: { engine: '1' }, result: { raw: [1] } },
  ...{ measures, tables: [], charts: [] },
})

const reportOf = (measures: readonly Measure[], settings = {}) =>
  documentOf(beginReport('compare'), findings(measures, settings))

const written = async (name: string, content: unknown): Promise<string> => {
  const path = join(folder, name)
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content))
  return path
}

test('a report that was written is read as it was', async () => {
  const report = reportOf([measure('a', 3, { least: 1, most: 4 })], { inputs: [1, 2] })
  expect(report.versions).toMatchObject({ node: process.version, engine: '1' })
  expect(await readDocument(await written('whole.json', report), 'compare')).toEqual(report)
})

test.each([
  ['a file that is none', undefined, 'cannot be read: no such file or directory.'],
  ['no JSON', '{"schema"', 'cannot be read: '],
  ['another kind of JSON', { schema: 'other' }, 'is no report of kvx bench (schema: '],
  ['a measure without a number', { ...reportOf([]), measures: [{ name: 'a' }] }, '(measures.0.'],
  [
    'a report of another command',
    { ...reportOf([]), command: 'load' },
    'is a report of kvx bench load, not of compare',
  ],
])('%s is refused as a baseline, with the reason', async (name, content, reason) => {
  const path = content === undefined ? join(folder, 'none') : await written(`${name}.json`, content)
  await expect(readDocument(path, 'compare')).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message: expect.stringContaining(reason),
  })
})

test('a change is a verdict only where the spreads do not overlap', () => {
  const before = reportOf([
    measure('faster', 100, { least: 90, most: 110 }),
    measure('slower', 100, { least: 90, most: 110 }),
    measure('noise', 100, { least: 90, most: 110 }),
    measure('throughput', 10, { better: 'higher' }),
    measure('gone', 1),
  ])
  const now = reportOf([
    measure('faster', 50, { least: 45, most: 55 }),
    measure('slower', 150, { least: 140, most: 160 }),
    measure('noise', 105, { least: 95, most: 120 }),
    measure('throughput', 12, { better: 'higher' }),
    measure('new', 1),
  ])
  const { rows, notes } = comparison(now, before)
  expect(rows.map(([name, , , , change, verdict]) => [name, change, verdict])).toEqual([
    ['faster', '-50.0 %', 'better'],
    ['slower', '+50.0 %', 'worse'],
    ['noise', '+5.0 %', 'within the spread'],
    ['throughput', '+20.0 %', 'better'],
  ])
  expect(notes).toEqual(['1 measures of the baseline were not measured now, such as: gone.'])
})

test('settings, versions and machines that differ are named beside a comparison', () => {
  const before = reportOf([], { output: 16 })
  const now = { ...reportOf([], { output: 8 }), machine: { ...before.machine, cores: 99 } }
  expect(comparison(now, before).notes).toEqual([
    `The machine (cores) differs: ${String(before.machine.cores)} then, 99 now.`,
    'The setting output differs: 16 then, 8 now.',
  ])
})

const chart = (kind: 'line' | 'bar'): Chart => ({
  ...{ name: 'speed', title: 'Speed of all', kind },
  ...{ x: { label: 'tokens', scale: kind === 'line' ? 'log' : 'point' }, y: { label: 'GB/s' } },
  points: ['shm', 'mooncake'].flatMap((series, i) =>
    [1_024, 2_048].map((x) => ({ series, x, y: i + x / 1_000, least: i, most: i + 4 })),
  ),
})

test.each(['line', 'bar'] as const)(
  'a chart of %ss is an SVG file with all series',
  async (kind) => {
    const svg = await svgOf(chart(kind))
    expect(svg).toMatch(/^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"/)
    expect(svg.trimEnd()).toMatch(/<\/svg>$/)
    for (const word of ['shm', 'mooncake', 'GB/s', 'tokens']) expect(svg).toContain(word)
    const drawn = kind === 'line' ? svg.match(/<circle/g) : svg.match(/<rect [^>]*fill=/g)
    expect(drawn?.length).toBeGreaterThanOrEqual(4)
  },
)

test('the page needs nothing beside itself, and what it tells cannot break out of it', async () => {
  const evil = '</script><script>alert(1)</script>'
  const report = reportOf([measure(evil, 1)], { model: evil })
  const table = { title: 'Numbers', head: ['what'], rows: [[evil]], notes: [evil] }
  const page = pageOf(report, [table], [{ ...chart('line'), svg: await svgOf(chart('line')) }])
  expect(page).not.toContain(evil)
  expect(page).not.toMatch(/<(link|img|iframe)|\bsrc=|@import|url\(/)
  const [, data] = /<script type="application\/json" id="report">(.*)<\/script>/.exec(page) ?? []
  expect(JSON.parse(data ?? '')).toEqual(report)
})

test('a table is Markdown whose columns stand below one another', () => {
  const table = { title: 'T', head: ['a', 'long'], rows: [['1', '2']], notes: ['A note.'] }
  expect(tableText(table)).toBe('T\n\n| a   | long |\n| --- | ---- |\n| 1   | 2    |\n\nA note.\n')
})
