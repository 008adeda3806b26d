/** Does `kvx up` answer, report the truth, and leave nothing behind? */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { afterEach, expect, test, vi } from 'vitest'
import { complete, patience } from './support/cluster.ts'
import { command, kvx } from './support/command.ts'
import { startUp } from './support/up.ts'

const pageBytes = 16 * 23_040
const small = ['--context-length', '1100', '--max-running-requests', '1']

interface Report {
  text: string
  tokens: number[]
  standalone_tokens: number[]
  equal: boolean
  prompt_tokens: number
  backend: string
  transfer: { pages: number; bytes: number; chunks: number; ms: number }
  decode_evaluated_tokens: number
  ttft_ms: number
  standalone_ttft_ms: number
}

afterEach(() => {
  vi.unstubAllEnvs()
})

const once_ = async (prompt: string, ...more: string[]) => {
  const { code, stdout, lastWords } = await kvx(
    ...['up', '--once', prompt, '--json'],
    ...small,
    ...more,
  )
  expect(code, lastWords).toBe(0)
  return JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as Report
}

test('one prompt is answered through two processes with the tokens of one, and the report says what moved', async () => {
  const report = await once_('The capital of France is', '--max-tokens', '12')
  expect(Object.keys(report)).toEqual([
    ...['text', 'tokens', 'standalone_tokens', 'equal', 'prompt_tokens', 'backend', 'transfer'],
    ...['decode_evaluated_tokens', 'ttft_ms', 'standalone_ttft_ms'],
  ])
  expect(report.equal).toBe(true)
  expect(report.tokens).toEqual(report.standalone_tokens)
  expect(report.text).toMatch(/Paris/)
  expect(report.prompt_tokens).toBe(5)
  expect(report.backend).toBe('shm')
  expect(report.transfer).toMatchObject({ pages: 1, bytes: pageBytes, chunks: 1 })
  expect(report.decode_evaluated_tokens).toBe(11)
})

test(
  'a prompt of a thousand tokens leaves in chunks of a hundred, and no page twice',
  { timeout: 5 * patience },
  async () => {
    const report = await once_(
      'one two three four '.repeat(250).trim(),
      ...[
        '--max-tokens',
        '8',
        '--chunked-prefill-size',
        '100',
        '--temperature',
        '0.7',
        '--seed',
        '5',
      ],
      '--verify-kv',
    )
    expect(report.prompt_tokens).toBe(1_000)
    expect(report.transfer).toMatchObject({ pages: 63, bytes: 63 * pageBytes, chunks: 10 })
    expect(report.equal).toBe(true)
  },
)

test('workers and router that want a key get it from kvx up, and its own questions carry it', async () => {
  vi.stubEnv('KVX_API_KEY', 'a-key-for-tests')
  expect((await once_('The capital of France is', '--max-tokens', '4')).equal).toBe(true)
})

const answers = (url: string) =>
  fetch(`${url}/health`).then(
    () => true,
    () => false,
  )

test('up serves until it is interrupted, and then everything it started is gone', async () => {
  const { up, url, workers, greeting } = await startUp(...small)
  const urls = [url, ...[...workers.values()].map((worker) => worker.url)]
  expect([...workers.keys()].sort()).toEqual(['decode-1', 'prefill-1'])
  expect(greeting).toContain(`curl ${url}/v1/completions`)
  const question = {
    prompt: 'The capital of France is',
    max_tokens: 3,
    temperature: 0,
    stream: true,
  }
  expect((await complete(url, question)).text).toContain('Paris')
  up.kill('SIGINT')
  expect(await once(up, 'exit')).toEqual([130, null])
  expect(await Promise.all(urls.map(answers))).toEqual([false, false, false])
})

test.each([
  ['SIGTERM', 0],
  ['SIGINT', 130],
] as const)('a worker that gets %s ends in order, with exit code %i', async (signal, code) => {
  const worker = spawn(process.execPath, [command, 'serve', '--port', '0', ...small], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const [line] = (await once(createInterface({ input: worker.stdout }), 'line')) as [string]
  expect(line).toMatch(/^kvx standalone worker ready at http:\/\/127\.0\.0\.1:\d+$/)
  worker.kill(signal)
  expect(await once(worker, 'exit')).toEqual([code, null])
})

test('workers end when the process that started them is killed', async () => {
  const { up, url: front, workers } = await startUp(...small)
  up.kill('SIGKILL')
  for (const url of [front, ...[...workers.values()].map((worker) => worker.url)])
    await expect.poll(() => answers(url), { timeout: patience }).toBe(false)
})

test('a child that cannot start is named, after its last words', async () => {
  const result = await kvx('up', '--port', '0', '--transfer-backend', 'nixie')
  expect(result.code).toBe(1)
  expect(result.stdout).toBe('')
  expect(result.lastWords).toMatch(
    /^kvx: (prefill|decode)-1 ended before it was ready \(exit code 1\): its last words are above\.$/,
  )
})
