/** Does `kvx synth` carry a cache by the vendors' real engines as well, and does it say clearly how that went? */
import { beforeAll, expect, test } from 'vitest'
import { buildFakeVerbs } from '../../mori/test/fake-verbs/build.mjs'
import { patience } from './support/cluster.ts'
import { kvx, kvxWith } from './support/command.ts'

let fake: Record<string, string> = {}

beforeAll(async () => {
  fake = { KVX_MORI_VERBS: 'fake', KVX_MORI_FAKE_VERBS: buildFakeVerbs() }
  for (const name of ['mooncake', 'mori']) await kvx('backend', 'install', name)
}, patience)

interface Report {
  ok: boolean
  engine: { backend: string }
  ranks: object
  requests: { outcome: string; message?: string; verifiedBytes: number }[]
  total: Record<string, number>
}

const layouts = [
  [
    'heads of TP4 to TP2, pages of 16 to 64',
    ['--model', 'llama-3.1-70b', '--layers', '3', '--prefill', 'tp=4', '--decode', 'tp=2,page=64'],
    { prefill: 4, decode: 2 },
    150 * 3 * 4096,
  ],
  [
    'windows, PP2 with TP2 to TP4, layers out of order',
    [
      ...['--model', 'gpt-oss-120b', '--layers', '4', '--prefill', 'tp=2,pp=2'],
      ...['--decode', 'tp=4', '--layers-per-write', '1', '--out-of-order'],
    ],
    { prefill: 4, decode: 4 },
    (150 + 128) * 2 * 2048,
  ],
] as const

test.each(
  ['mooncake', 'mori'].flatMap((engine) => layouts.map((one) => [engine, ...one] as const)),
)(
  'by %s: %s, every byte and digest is right',
  { timeout: patience },
  async (engine, _what, flags, ranks, bytes) => {
    const { code, stdout, lastWords } = await kvxWith(
      { env: engine === 'mori' ? fake : {} },
      ...['synth', ...flags, '--tokens', '150', '--chunk', '37', '--requests', '2'],
      ...['--transfer-backend', engine, '--verify-kv', '--json'],
    )
    expect(lastWords).toBe('')
    const report = JSON.parse(stdout) as Report
    expect(report).toMatchObject({ engine: { backend: engine }, ranks, ok: true })
    expect(report.requests).toMatchObject([
      { outcome: 'ok', verifiedBytes: bytes },
      { outcome: 'ok', verifiedBytes: bytes },
    ])
    expect(report.total).toMatchObject({ succeeded: 2, lostPages: 0, verifiedBytes: 2 * bytes })
    expect(code).toBe(0)
  },
)

test('aborted requests are told apart from those that fail, and the screen sums up', async () => {
  const { code, stdout } = await kvx(
    ...['synth', '--layers', '2', '--tokens', '100', '--chunk', '32'],
    ...['--requests', '3', '--abort-every', '2', '--abort-by', 'decode'],
  )
  expect(stdout).toMatch(/^llama-3\.1-8b, 2 layers: 1 prefill rank to 1 decode rank by shm 1\n/)
  expect(stdout).toContain('2 right, 1 aborted as asked, 0 with wrong bytes, 0 failed\n')
  expect(stdout).toMatch(
    /moved {6}200 tokens, [\d,]+ bytes at [\d.]+ GB\/s; 1,638,400 bytes verified/,
  )
  expect(stdout).toMatch(/\ngood\n$/)
  expect(code).toBe(0)
})

test.each([
  [
    'ranks that do not divide the heads',
    ['--decode', 'tp=3'],
    'tpSize of decode is 3. kv layer 0 k has 8 units, which 3 ranks cannot share evenly',
  ],
  ['a model that is not in the table', ['--model', 'llama-4'], '--model must be one of llama-3.1'],
  ['a key that does not exist', ['--decode', 'tpp=3'], "--decode has no 'tpp': there are tp, pp"],
  ['a size that is none', ['--prefill', 'tp=zero'], 'tp must be a positive integer'],
  ['an order that is none', ['--prefill', 'order=HNDX'], 'order must be NHD, HND, HDN'],
  ['a context that is none', ['--prefill', 'cp=2,context=x'], 'interleave:TOKENS'],
  ['context-parallel ranks without a context', ['--prefill', 'cp=2'], 'which tokens each has'],
  ['stages that are none', ['--prefill', 'stages=0-4'], 'layer numbers such as 0/10/32'],
  ['an index for a model without one', ['--index'], 'index is for models with a latent'],
  ['a draft layer that is none', ['--draft', 'small'], 'must be HEADSxDIM, such as 2x64'],
  ['a prefix beyond the prompt', ['--tokens', '9', '--prefix', '10'], 'from 0 to the 9 tokens'],
  ['a flag that needs another', ['--out-of-order'], '--out-of-order needs --layers-per-write'],
  ['a misspelt backend', ['--transfer-backend', 'moncake'], "did you mean 'mooncake'"],
])('%s is refused in one sentence, with exit code 2', async (_what, flags, sentence) => {
  const { code, stdout, lastWords } = await kvx('synth', '--layers', '2', ...flags)
  expect(lastWords).toMatch(/^kvx: \S/)
  expect(lastWords).toContain(sentence)
  expect(stdout).toBe('')
  expect(code).toBe(2)
})

test('every example of --help is a command line that is understood', async () => {
  const { stdout } = await kvx('synth', '--help')
  const [, examples = ''] = stdout.split('EXAMPLES')
  const lines = examples
    .replaceAll(/\\\n\s+/g, '')
    .split('\n')
    .flatMap((line) => /^\s+kvx (synth .*)$/.exec(line)?.[1] ?? [])
  expect(lines.length).toBeGreaterThan(5)
  for (const line of lines) {
    // What follows makes it fail, but only after all that was written there was found right.
    const { lastWords } = await kvx(...line.split(' '), '--seed', '-1')
    expect(lastWords).toContain("--seed must be an integer from 0 to 4294967295, not '-1'")
  }
})
