/** Does kvx bench measure real processes, and tell what it has when it is ended? */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { patience } from './support/cluster.ts'
import { command, kvx } from './support/command.ts'

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-bench-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const small = ['--inputs', '40', '--repeat', '1', '--warmup', '1', '--output', '4']

test(
  'an engine is compared with one process: same answers, what crossed, files, and a later run with this one',
  { timeout: patience },
  async () => {
    const args = ['bench', 'compare', '--backends', 'standalone,shm', ...small]
    const first = await kvx(...args, '--concurrency', '2', '--report', folder)
    expect(first).toMatchObject({ code: 0 })
    expect(first.stdout).toContain('SHM: 1 of 1 answers equal those of one process')
    expect(first.stdout).toContain('| At once | Metric')
    expect(await readdir(folder)).toEqual(
      expect.arrayContaining(['report.json', 'report.html', 'ttft.svg', 'concurrency.svg']),
    )
    const path = join(folder, 'report.json')
    const report = JSON.parse(await readFile(path, 'utf8'))
    expect(report).toMatchObject({ command: 'compare', ok: true, settings: { inputs: [40] } })
    const [alone, through] = report.result.samples
    expect(alone).toMatchObject({ contender: 'standalone', outcome: 'ok' })
    expect(alone).not.toHaveProperty('bytes')
    // 40 tokens in three pages of 16, of 30 layers with K and V of 3 heads of 64 numbers in two bytes.
    expect(through).toMatchObject({ contender: 'shm', bytes: 3 * 16 * 30 * 2 * 3 * 64 * 2 })
    expect(through.wireMs).toBeGreaterThan(0)

    const second = await kvx(...args, '--baseline', path)
    expect(second.stdout).toContain('Beside the baseline of')
    expect(second.stdout).toContain('shm, 40 tokens, wire time')
    expect(second.stdout).toContain('The setting concurrency differs: [2] then, [] now.')
  },
)

test('what was measured until Ctrl-C is told', { timeout: patience }, async () => {
  const args = ['bench', 'compare', '--backends', 'shm', '--inputs', '40', '--repeat', '1000']
  const bench = spawn(
    process.execPath,
    [command, ...args, '--warmup', '1', '--output', '4', '--json'],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  let said = ''
  bench.stdout.on('data', (data: Buffer) => (said += data.toString()))
  // The second word of progress comes ten seconds after the first, when some rounds have ended.
  let words = 0
  bench.stderr.on('data', (data: Buffer) => {
    words += data.toString().match(/round/g)?.length ?? 0
    if (words >= 2) bench.kill('SIGINT')
  })
  const [code] = (await once(bench, 'close')) as [number | null]
  expect(code).toBe(130)
  const { interrupted, result } = JSON.parse(said)
  expect(interrupted).toBe(true)
  expect(result.samples.length).toBeGreaterThan(0)
  expect(result.samples.length).toBeLessThan(1_000)
})

test(
  'a load through a router is answered, compared with one process, and leaves no page behind',
  { timeout: patience },
  async () => {
    const { code, stdout } = await kvx(
      ...['bench', 'load', '--rate', '5', '--seconds', '2', '--input', '20', '--output', '4'],
      ...['--check-every', '2', '--json'],
    )
    const { ok, result } = JSON.parse(stdout)
    expect({ ok, code, leaked: result.leakedPages }).toEqual({ ok: true, code: 0, leaked: 0 })
    const { requests } = result
    expect(requests.length).toBeGreaterThan(0)
    const compared = requests.filter((one: { equal?: boolean }) => one.equal !== undefined)
    expect(compared).toHaveLength(Math.floor(requests.length / 2))
    expect(requests[0]).toMatchObject({ outcome: 'ok', queueMs: expect.any(Number) })
  },
)

test(
  'more than workers take is refused with a code, and is no failure',
  { timeout: patience },
  async () => {
    const { code, stdout } = await kvx(
      ...['bench', 'load', '--rate', '200', '--seconds', '0.5', '--concurrency', '64'],
      ...['--max-queued-requests', '1', '--max-running-requests', '1', '--input', '20', '--json'],
    )
    const { result } = JSON.parse(stdout)
    const outcomes = new Set(result.requests.map(({ outcome }: { outcome: string }) => outcome))
    expect({ code, outcomes }).toEqual({ code: 0, outcomes: new Set(['ok', 'ERR_KVX_OVER_LIMIT']) })
    expect(result.leakedPages).toBe(0)
  },
)

test('a trace is replayed from its file', { timeout: patience }, async () => {
  const path = join(folder, 'trace.jsonl')
  const request = (timestamp: number, hash_ids: number[]) =>
    JSON.stringify({ timestamp, input_length: 1_000, output_length: 2, hash_ids })
  await writeFile(path, [request(0, [1, 2]), request(900, [1, 3])].join('\n'))
  const { code, stdout } = await kvx(
    ...['bench', 'trace', path, '--speed', '10', '--pool-tokens', '4096', '--verify', '--json'],
    // One after the other: a prefix is there when its request has ended.
    ...['--max-running-requests', '1'],
  )
  const [pass] = JSON.parse(stdout).result.passes
  expect(code).toBe(0)
  expect(pass.requests).toMatchObject([{ prefixTokens: 0 }, { prefixTokens: 512 }])
})

test(
  'caches and answers through an engine equal those of one process, and a control differs',
  { timeout: patience },
  async () => {
    const args = ['--backends', 'shm', '--prompts', '2', '--longest', '60', '--output', '4']
    const { code, stdout } = await kvx('bench', 'accuracy', ...args, '--json')
    const { ok, result } = JSON.parse(stdout)
    expect({ ok, code }).toEqual({ ok: true, code: 0 })
    const of = (name: string) =>
      result.samples.filter(({ contender }: { contender: string }) => contender === name)
    expect(of('shm')).toHaveLength(26)
    expect(of('suppressed')).toHaveLength(26)
    expect(of('suppressed')[0]).toMatchObject({
      cacheEqual: false,
      message: 'kv layer 0 k is not that of one process',
    })
  },
)

test(
  'whole caches are measured beside what the machine can do',
  { timeout: patience },
  async () => {
    const args = ['--model', 'llama-3.1-8b', '--layers', '2', '--tp', '2:1', '--repeat', '2']
    const transfer = ['bench', 'transfer', ...args, '--inputs', '32..64', '--chunk', '32']
    const { code, stdout } = await kvx(...transfer, '--json')
    const { rows } = JSON.parse(stdout).result
    expect(code).toBe(0)
    expect(rows.map(({ input }: { input: number }) => input)).toEqual([32, 64])
    const [, row] = rows
    expect(row.samples).toHaveLength(2)
    // Two layers with K and V of 8 heads of 128 numbers in two bytes, in 4 pages of 16 tokens; two writes, by two ranks.
    expect(row.samples[0]).toMatchObject({ bytes: 64 * 2 * 2 * 8 * 128 * 2, chunks: 2 })
    // A rank of two has 4 of 8 heads, so that each token of each tensor is a piece.
    expect(row.samples[0].cost).toMatchObject({ operations: 2 * 64 * 4, writes: 4 })
    expect(Math.min(...row.memcpy, ...row.largeCopy)).toBeGreaterThan(0)

    const nixl = await kvx(...transfer, '--format', 'nixlbench')
    const lines = nixl.stdout.split('\n')
    expect(lines[0]).toMatch(
      /^Block Size \(B\) +Batch Size +B\/W \(GB\/Sec\) +Avg Lat\. \(us\) +Avg Prep/,
    )
    expect(lines[2]).toMatch(/^1024 +256( +[\d.]+){8}$/)
  },
)

test(
  'caches that do not fit into memory are named, and others are measured',
  { timeout: patience },
  async () => {
    const { code, stdout } = await kvx(
      ...[
        'bench',
        'transfer',
        '--model',
        'llama-3.1-8b',
        '--inputs',
        '16,10000000',
        '--repeat',
        '1',
      ],
    )
    expect(stdout).toMatch(
      /10,000,000 tokens were not measured: .*(free: take fewer|one view spans)/,
    )
    expect(stdout).toContain('| 16           | wire, ms')
    expect(code).toBe(0)
  },
)

test.each([
  ['transfer --inputs 16', '--inputs needs --model.'],
  ['transfer --model llama-3.1-8b --runs 4KiB', '--runs does not go with --model.'],
  ['transfer --model llama-3.1-8b --tp 3:1 --inputs 16', 'The synthetic host: '],
  ['transfer --model llama', '--model must be one of'],
  ['accuracy --backends standalone', '--backends: one process takes part anyway'],
  ['accuracy --chunk 1', '--chunk must be an integer from 2'],
  ['load --rate 0', '--rate must be a number from 0.001'],
  ['load --transfer-backend mori', 'mori cannot run here'],
  ['trace', 'Which trace?'],
  ['trace /none.jsonl', 'The trace /none.jsonl: cannot be read: no such file or directory'],
  ['trace x --instances 2', '--instances must be P:D, such as 2:2'],
  ['trace x --page-size 48 --chunk 100', '--chunk must be a multiple of --page-size'],
  ['trace x --speed slow', '--speed must be a number from 0.001'],
  ['compare --backends shm,shm', '--backends names shm twice.'],
  ['compare --backends smh', "There is no transfer backend 'smh': did you mean 'shm'?"],
  ['compare --inputs 0', '--inputs takes integers from 1 to'],
  ['compare --inputs 8..4', '--inputs takes integers from 1 to'],
  ['compare --inputs 16,16', '--inputs names 16 twice.'],
  ['compare --repeat 0', '--repeat must be an integer from 1 to 1000'],
  ['compare --concurrency x', '--concurrency takes integers from 1 to 256'],
  [
    'compare --baseline /none.json',
    'The baseline /none.json cannot be read: no such file or directory.',
  ],
  [
    'compare --report /dev/null/none',
    '--report: /dev/null/none cannot be written: not a directory.',
  ],
  ['compare --input 16', 'There is no flag --input: did you mean --inputs?'],
])('kvx bench %s is refused in one sentence', async (line, words) => {
  const { code, lastWords } = await kvx('bench', ...line.split(' '))
  expect(lastWords).toContain(words)
  expect(code).toBe(2)
})

test('a report of another command is no baseline', async () => {
  const path = join(folder, 'other.json')
  await writeFile(path, '{"schema":"kvx-bench-report/1","command":"load"}')
  const { code, lastWords } = await kvx('bench', 'compare', '--baseline', path)
  expect(lastWords).toMatch(/The baseline .* is no report of kvx bench \(startedAt: /)
  expect(code).toBe(2)
})
