import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, expect, test } from 'vitest'

const path = (relative: string) => fileURLToPath(new URL(relative, import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'kvx-sim-'))
afterAll(() => {
  rmSync(folder, { recursive: true, force: true })
})

function sim(...args: string[]): { code: number | null; out: string; err: string } {
  const options = { encoding: 'utf8', maxBuffer: 64 << 20 } as const
  const done = spawnSync(process.execPath, [path('../dist/cli.js'), ...args], options)
  return { code: done.status, out: done.stdout, err: done.stderr }
}

/** A build of core in which decode gives the pages of a failed request back at once. */
function brokenCore(): string {
  const core = join(folder, 'core')
  cpSync(path('../../core/dist'), core, { recursive: true })
  const file = join(core, 'protocol/decode/request.js')
  const source = readFileSync(file, 'utf8')
  const broken = source.replace(
    '!request.legs.every((leg) => leg.drained && !isScattering(leg))',
    'false',
  )
  expect(broken).not.toBe(source)
  writeFileSync(file, broken)
  return core
}

test('a defect in another build of core is found, shrunk, and replayed exactly', () => {
  const core = brokenCore()
  const found = sim('--core', core, '--schedules', '300', '--jobs', '1')
  expect(found.code).toBe(1)
  expect(found.out).toMatch(/pages given back (early|without proof)/)
  const seed = /npm run sim -- --seed (\d+)/.exec(found.out)?.[1] ?? ''
  const replayed = sim('--core', core, '--seed', seed)
  expect(replayed.code).toBe(1)
  const [, from, to] =
    /shrunk from (\d+) to (\d+) actions: pages given back/.exec(replayed.out) ?? []
  expect(Number(to)).toBeLessThanOrEqual(Number(from))
  expect(replayed.out).toContain('VIOLATION')
  expect(found.out).toContain(replayed.out.trim())
  expect(sim('--core', core, '--seed', seed).out).toBe(replayed.out)
  // The same seed with the true core.
  expect(sim('--seed', seed)).toMatchObject({ code: 0, err: '' })
})

test('a defect that an aimed schedule finds is replayed by its seed and its actions', () => {
  const core = brokenCore()
  const found = sim('--core', core, '--aimed', '--schedules', '400', '--jobs', '1')
  expect(found.code).toBe(1)
  const [, seed = '', actions = ''] =
    /replay: npm run sim -- --seed (\d+) --actions FILE\nFILE: (.+)\n/.exec(found.out) ?? []
  const file = join(folder, 'actions.json')
  writeFileSync(file, actions)
  const replayed = sim('--core', core, '--seed', seed, '--actions', file)
  expect(replayed.code).toBe(1)
  expect(found.out).toContain(replayed.out.trim())
  expect(sim('--seed', seed, '--actions', file)).toMatchObject({ code: 0, err: '' })
})

test('a run counts schedules, events, requests and cells', () => {
  const { code, out } = sim('--schedules', '60', '--from', '9', '--jobs', '2', '--json')
  expect(code).toBe(0)
  const { schedules, events, succeeded, coverage } = JSON.parse(out)
  expect(schedules).toBe(60)
  expect(events).toBeGreaterThan(60 * 50)
  expect(succeeded).toBeGreaterThan(0)
  expect(coverage['P reserve unknown'].length).toBe(9)
  expect(sim('--schedules', '20', '--jobs', '1', '--table').out).toContain(
    '| P | reserve | unknown |',
  )
})

test.each([
  [['--fence', 'wall'], '--fence must be one of peer, engine, exit'],
  [['--mode', 'fast'], '--mode must be one of safety, liveness'],
  [['--schedules', '0'], '--schedules must be a whole number'],
  [['--seed', 'x'], '--seed must be a whole number'],
  [['--core', '/nowhere'], 'is no build of @kvx/core'],
  [['--sead', '1'], "Unknown option '--sead'"],
])('%j is answered with what is wrong', (args, text) => {
  const { code, err } = sim(...args)
  expect(code).toBe(2)
  expect(err).toContain(text)
})

test('--help names every option', () => {
  const { code, out } = sim('--help')
  expect(code).toBe(0)
  for (const option of [
    'schedules',
    'from',
    'seed',
    'mode',
    'fence',
    'jobs',
    'core',
    'aimed',
    'actions',
    'table',
    'json',
  ])
    expect(out).toContain(`--${option}`)
})

test('a reader that goes away, as `head` does, changes nothing of how the run ends', async () => {
  const child = spawn(process.execPath, [path('../dist/cli.js'), '--schedules', '2'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  child.stdout.destroy()
  let told = ''
  child.stderr.on('data', (data: Buffer) => (told += data.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  expect({ code, told }).toEqual({ code: 0, told: '' })
})
