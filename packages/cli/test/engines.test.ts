/** Do the vendors' real libraries carry a real prompt, and can a person get and judge them by the command? */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildFakeVerbs } from '../../mori/test/fake-verbs/build.mjs'
import { patience } from './support/cluster.ts'
import { kvx } from './support/command.ts'

let folder = ''
let fakeVerbs = ''

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-engines-'))
  fakeVerbs = buildFakeVerbs()
  for (const name of ['mooncake', 'mori']) {
    // mori cannot run on a machine without RDMA: then it says so after installing.
    const { stdout } = await kvx('backend', 'install', name)
    expect(stdout).toContain(`${name} `)
  }
}, patience)

afterAll(() => rm(folder, { recursive: true, force: true }))

const settings: [string, Record<string, string>][] = [
  ['mooncake', {}],
  ['mori', { KVX_MORI_VERBS: 'fake' }],
]

test.each(settings)(
  'a real prompt is answered over %s with the tokens of one process',
  { timeout: 5 * patience },
  async (name, env) => {
    Object.assign(process.env, env, name === 'mori' ? { KVX_MORI_FAKE_VERBS: fakeVerbs } : {})
    const { code, stdout, lastWords } = await kvx(
      ...[
        'up',
        '--once',
        'one two three four '.repeat(20).trim(),
        '--max-tokens',
        '6',
        '--json',
        '--verify-kv',
      ],
      ...['--transfer-backend', name, '--context-length', '128', '--max-running-requests', '1'],
      ...['--chunked-prefill-size', '32'],
    )
    expect(code, lastWords).toBe(0)
    const report = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as Record<string, unknown>
    expect(report).toMatchObject({ equal: true, backend: name, prompt_tokens: 80 })
    expect(report.transfer).toMatchObject({ pages: 5, bytes: 5 * 16 * 23_040, chunks: 3 })
  },
)

test('a backend that needs no library says so', async () => {
  const { code, stdout } = await kvx('backend', 'install', 'shm')
  expect(stdout).toContain('needs no library')
  expect(code).toBe(0)
})

test.each([
  ['a misspelt backend', ['mooncak'], "did you mean 'mooncake'"],
  ['a version that is not known', ['mori', '--version', '1.0'], 'supported are 1.2.4'],
  ['a version that corrupts memory', ['mooncake', '--version', '0.3.8.post1'], 'too old'],
  [
    'a flavour that does not exist',
    ['mooncake', '--flavour', 'tpu'],
    'non-cuda, cuda, cuda13, rocm',
  ],
  ['a flag that does not exist', ['mori', '--wheels', 'x'], '--wheel'],
  ['no name', [], 'Which backend?'],
])(
  '%s is refused in one sentence, with exit code 2: nothing was installed',
  async (_what, words, sentence) => {
    const { code, lastWords } = await kvx('backend', 'install', ...words)
    expect(lastWords).toMatch(/^kvx: \S/)
    expect(lastWords).toContain(sentence)
    expect(code).toBe(2)
  },
)

test('a wheel that is not the published one is refused, and nothing is installed', async () => {
  const wheel = join(folder, 'amd_mori-1.2.4-cp310-cp310-manylinux_2_35_x86_64.whl')
  await writeFile(wheel, 'not a wheel')
  const cache = join(folder, 'cache')
  const previous = process.env.KVX_CACHE
  process.env.KVX_CACHE = cache
  try {
    const { code, lastWords } = await kvx('backend', 'install', 'mori', '--wheel', wheel)
    expect(lastWords).toMatch(/^kvx: .*(digest|SHA-256)/i)
    expect(code).toBe(2)
    const { stdout } = await kvx('backend', 'list', '--json')
    const { backends } = JSON.parse(stdout) as {
      backends: { name: string; available: boolean; reason: string }[]
    }
    const mori = backends.find(({ name }) => name === 'mori')
    expect(mori).toMatchObject({
      available: false,
      reason: expect.stringContaining('kvx backend install mori') as string,
    })
  } finally {
    if (previous === undefined) delete process.env.KVX_CACHE
    else process.env.KVX_CACHE = previous
  }
})

test('doctor says of each backend whether it can run, and of the machine what is missing', async () => {
  const { code, stdout } = await kvx('doctor', '--json')
  const { backends, machine } = JSON.parse(stdout) as {
    backends: { name: string; available: boolean }[]
    machine: { name: string; good: boolean; advice?: string }[]
  }
  expect(backends.map(({ name }) => name)).toEqual(['shm', 'mooncake', 'mori'])
  expect(backends[0]).toMatchObject({ available: true })
  expect(machine.map(({ name }) => name)).toEqual(
    expect.arrayContaining([
      'memlock',
      'RDMA devices',
      'port 30000',
      'huge pages',
      'pip',
      'compiler',
    ]),
  )
  expect(machine.every(({ good, advice }) => good || (advice ?? '') !== '')).toBe(true)
  expect(code).toBe(0)
  const screen = await kvx('doctor')
  expect(screen.stdout).toMatch(/^backends\n {2}✓ shm/)
})

test('doctor ends with 1 when a backend that was named cannot run, and with 0 when it can', async () => {
  expect((await kvx('doctor', 'shm')).code).toBe(0)
  const { code, stdout } = await kvx('doctor', 'shm', './none.mjs')
  expect(stdout).toContain('✗ ./none.mjs')
  expect(code).toBe(1)
})
