/** Are backends found from where the command is called, and does installing one end with the right code? */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { contractVersion } from '@kvx/contract'
import { patience } from './support/cluster.ts'
import { kvxWith } from './support/command.ts'

let cwd = ''

/** A backend that runs nowhere, and whose library comes from nowhere; it says how far it was taken. */
const source = (name: string, install = '') => `
  const failure = (code, message) => Object.assign(new Error(message), { name: 'KvxError', code })
  export default {
    [Symbol.for('@kvx/backend')]: ${String(contractVersion)},
    name: '${name}',
    probe: async () => ({ available: false, tried: [], remedy: 'no network card' }),
    open: async () => { throw failure('ERR_KVX_BACKEND_UNAVAILABLE', '${name} was opened') },
    library: {
      versions: ['1'], flavours: [], installed: async () => [],
      install: async () => { ${install}; return { name: '${name}', version: '1', folder: '/there', sha256: '', from: 'pip' } },
    },
  }`

beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'kvx-caller-'))
  await writeFile(join(cwd, 'mine.mjs'), source('mine'))
  const failing = "throw failure('ERR_KVX_BACKEND_UNAVAILABLE', 'the index was not reached')"
  await writeFile(join(cwd, 'unreachable.mjs'), source('unreachable', failing))
  const packages = {
    'their-engine': source('their-engine'),
    '@kvx/shm': 'throw new Error("not it")',
  }
  for (const [name, text] of Object.entries(packages)) {
    const folder = join(cwd, 'node_modules', name)
    await mkdir(folder, { recursive: true })
    const manifest = { name, version: '1.0.0', type: 'module', exports: './index.js' }
    await writeFile(join(folder, 'package.json'), JSON.stringify(manifest))
    await writeFile(join(folder, 'index.js'), text)
  }
})
afterAll(() => rm(cwd, { recursive: true }))

const called = (...args: readonly string[]) => kvxWith({ cwd }, ...args)

interface Report {
  readonly backends: readonly { name: string; available: boolean; reason: string }[]
}

test.each([
  ['backend list', ['backend', 'list'], 0],
  ['doctor', ['doctor'], 1],
])('kvx %s takes backends by path and package, as seen from the caller', async (_, words, ends) => {
  const names = ['./mine.mjs', join(cwd, 'mine.mjs'), 'their-engine', './none.mjs', 'nobodys']
  const { code, stdout } = await called(...words, ...names, '--json')
  expect(code).toBe(ends)
  const { backends } = JSON.parse(stdout) as Report
  expect(backends.map(({ name }) => name)).toEqual(names)
  expect(backends.map(({ reason }) => reason)).toEqual([
    ...Array<string>(3).fill('no network card'),
    expect.stringContaining("There is no transfer backend './none.mjs': no such file"),
    expect.stringContaining("There is no transfer backend 'nobodys': kvx has shm, mooncake, mori"),
  ])
})

test.each(['./mine.mjs', 'their-engine'])(
  'a worker opens the backend %s of the caller',
  async (name) => {
    const { code, lastWords } = await called(
      ...['serve', '--disaggregation-mode', 'decode', '--port', '0', '--transfer-backend', name],
      ...['--context-length', '64', '--max-running-requests', '1'],
    )
    expect(code).toBe(1)
    expect(lastWords).toMatch(/^kvx: (mine|their-engine) was opened$/)
  },
  patience,
)

test("kvx's own backends are those beside the command, whatever the caller has installed", async () => {
  const { stdout } = await called('backend', 'list', 'shm', '--json')
  expect((JSON.parse(stdout) as Report).backends).toMatchObject([{ name: 'shm', available: true }])
})

test('an installation succeeds where the library cannot run, as on a machine that builds images', async () => {
  const { code, stdout } = await called('backend', 'install', './mine.mjs')
  expect(code).toBe(0)
  expect(stdout).toBe('./mine.mjs 1 is in /there\nIt cannot run here. no network card\n')
})

test.each([
  ['./unreachable.mjs', 'the index was not reached'],
  ['nobodys', "There is no transfer backend 'nobodys'"],
  ['mooncak', "did you mean 'mooncake'"],
])('installing %s ends with 2: it was not installed', async (name, words) => {
  const { code, stdout, lastWords } = await called('backend', 'install', name)
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(lastWords).toContain(words)
})
