import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { fakeCuda } from '../../native/test/fake-cuda.ts'

const file = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const examples = '../../../examples/python/'
const patience = 240_000

function python(path: string, given: string[] = [], env: Record<string, string> = {}) {
  const { stdout, stderr, status, error } = spawnSync('python3', [file(path), ...given], {
    encoding: 'utf8',
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1', ...env },
    timeout: patience,
  })
  if (error !== undefined) throw error
  return { stdout, stderr, status }
}

test(
  'a host in Python gets what kvx_host.py promises: pages, errors, and an end whoever dies',
  () => {
    const { stderr, status } = python('python/host_test.py')
    expect(status, stderr).toBe(0)
    expect(stderr).toMatch(/Ran 1\d tests/)
  },
  patience,
)

test('the smallest host in Python runs as it is, and the docs show it as it is', () => {
  const { stdout, stderr, status } = python(`${examples}two_managers.py`)
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  expect(stdout).toBe('arrived: 8192 bytes, first token 42\n')
  const shown = readFileSync(file('../../../docs/python-hosts.md'), 'utf8')
  const source = readFileSync(file(`${examples}two_managers.py`), 'utf8')
  expect(shown).toContain(`\`\`\`python\n${source}\`\`\`\n`)
})

test('prefill and decode in two Python processes answer as one process does', () => {
  const { stdout, stderr, status } = python(`${examples}tiny.py`)
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
  const found = JSON.parse(stdout) as { answer: number[] }
  expect(found).toMatchObject({ ok: true, tokensEqual: true, cacheEqual: true, distinct: 24 })
  expect(new Set(found.answer).size).toBe(24)
  expect(found).toMatchObject({ report: { chunks: 5, pages: 13 } })
})

test('they do not when the pages land elsewhere', () => {
  const { stdout, stderr, status } = python(`${examples}tiny.py`, ['--suppress-transfer'])
  expect({ stderr, status }).toEqual({ stderr: '', status: 1 })
  expect(JSON.parse(stdout)).toMatchObject({ ok: false, tokensEqual: false, cacheEqual: false })
})

/** On the GPUs of a driver that has none, which Python and the Node processes beside it share. */
const onGpus = (...given: string[]) =>
  python('python/fake_gpu.py', given, { KVX_CUDA_LIBRARY: fakeCuda })

test.each(['cuda:0,cuda:1', 'cuda:1,cuda:1', 'cpu,cuda:0', 'cuda:0,cpu'])(
  'prefill and decode in two Python processes answer as one does, on %s',
  (devices) => {
    const { stdout, stderr, status } = onGpus('--devices', devices)
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 })
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, tokensEqual: true, cacheEqual: true })
  },
)

test('on GPUs too they do not when the pages land elsewhere', () => {
  const { stdout, stderr, status } = onGpus('--devices', 'cuda:0,cuda:1', '--suppress-transfer')
  expect({ stderr, status }).toEqual({ stderr: '', status: 1 })
  expect(JSON.parse(stdout)).toMatchObject({ ok: false, tokensEqual: false, cacheEqual: false })
})
