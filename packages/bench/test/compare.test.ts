/** What is told of measurements that were made, also of those that could not be? */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, test } from 'vitest'
import {
  compareFindings,
  joinedFindings,
  type CompareResult,
  type CompareSample,
} from '../src/index.ts'
import { inLanes } from '../src/compare/lanes.ts'
import { ask } from '../src/serving/ask.ts'

const sample = (contender: string, round: number, more: Partial<CompareSample> = {}) => ({
  ...{ contender, round, input: 1_024, outcome: 'ok' as const },
  ...{ ttftMs: 1_000 * round, gapsMs: [10, 20], ms: 1_000 * round + 30 },
  ...more,
})

const result: CompareResult = {
  contenders: [
    { name: 'standalone' },
    { name: 'mori', version: '1.2.4', unavailable: 'This machine has no RDMA device.' },
    { name: 'shm', version: '1' },
  ],
  unfit: [{ input: 8_192, reason: 'the model takes 4096 tokens' }],
  samples: [1, 2, 3].flatMap((round) => [
    sample('standalone', round),
    sample('shm', round, { wireMs: 2, bytes: 4e6, queueMs: 0.5 }),
  ]),
  loads: [],
}

test('several cache dtypes are told one after the other, under names of their own', () => {
  const findings = compareFindings(result, {}, false)
  expect(joinedFindings([{ kvCacheDtype: 'f16', findings }], {})).toBe(findings)
  const dtypes = ['f16', 'q8_0']
  const joined = joinedFindings(
    dtypes.map((kvCacheDtype) => ({ kvCacheDtype, findings })),
    {},
  )
  expect(joined.tables.map(({ title }) => title)).toEqual([
    'One request at a time, cache dtype f16',
    'One request at a time, cache dtype q8_0',
  ])
  const names = joined.measures.map(({ name }) => name)
  expect(new Set(names).size).toBe(2 * findings.measures.length)
  expect(new Set(joined.charts.map(({ name }) => name)).size).toBe(2 * findings.charts.length)
})

const cellsOf = ({ tables: [table] }: ReturnType<typeof compareFindings>, metric: string) =>
  table?.rows.find(([, name]) => name === metric)

test('each contender has a column, and one that cannot run a reason', () => {
  const found = compareFindings(result, {}, false)
  expect(found.tables[0]?.head).toEqual(['Input tokens', 'Metric', 'STANDALONE', 'MORI', 'SHM'])
  expect(cellsOf(found, 'TTFT p50, ms')).toEqual([
    ...['1,024', 'TTFT p50, ms'],
    ...['2,000 [1,000 … 3,000]', '–', '2,000 [1,000 … 3,000]'],
  ])
  expect(cellsOf(found, 'wire speed, GB/s')).toEqual([
    '1,024',
    'wire speed, GB/s',
    '–',
    '–',
    '2.00',
  ])
  expect(found.tables[0]?.notes).toEqual([
    'SHM: 3 of 3 answers equal those of one process, token by token.',
    '8,192 tokens were not measured: the model takes 4096 tokens.',
    'MORI did not run: This machine has no RDMA device.',
  ])
  expect(found).toMatchObject({ ok: true, versions: { mori: '1.2.4', shm: '1' } })
})

test('every measure has a name of its own', () => {
  const names = compareFindings(result, {}, false).measures.map(({ name }) => name)
  expect(new Set(names).size).toBe(names.length)
  expect(names).toContain('shm, 1024 tokens, wire time')
})

test.each(['wrong', 'failed'] as const)(
  'an answer that is %s makes the whole not good',
  (outcome) => {
    const samples = [...result.samples, sample('shm', 4, { outcome, message: 'what happened' })]
    const found = compareFindings({ ...result, samples }, {}, false)
    expect(found.ok).toBe(false)
    expect(found.tables[0]?.notes).toContain('shm, 1,024 tokens, round 4: what happened')
  },
)

test('no more lanes are at work than there are, and everything is done once', async () => {
  let now = 0
  let most = 0
  const done = await inLanes(3, 10, async (number) => {
    most = Math.max(most, ++now)
    await new Promise((resolve) => setImmediate(resolve))
    now--
    return number
  })
  expect(most).toBe(3)
  expect(done).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
})

test.each([
  [
    'refuses',
    {
      status: 429,
      type: 'application/json',
      body: '{"error":{"code":"ERR_KVX_OVER_LIMIT","message":"full"}}',
    },
    { status: 429, code: 'ERR_KVX_OVER_LIMIT' },
  ],
  [
    'ends in the middle',
    {
      status: 200,
      type: 'text/event-stream',
      body: 'data: {"choices":[{"text":"a","token_ids":[1]}]}\n\n',
    },
    { status: 200, code: 'connection' },
  ],
  [
    'says no JSON',
    { status: 200, type: 'text/html', body: '<html>' },
    { status: 200, code: 'unreadable' },
  ],
])('a server that %s is told as that', async (_, { status, type, body }, expected) => {
  const server = createServer((request, response) => {
    request.resume()
    response.writeHead(status, { 'content-type': type }).end(body)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const url = `http://127.0.0.1:${String(port)}`
  const question = { prompt: [1], maxTokens: 4 }
  expect(await ask(url, question, { deadlineMs: 60_000 })).toMatchObject({ ok: false, ...expected })
  const closed = new Promise((resolve) => server.close(resolve))
  server.closeAllConnections()
  await closed
  expect(await ask(url, question, { deadlineMs: 60_000 })).toMatchObject({
    ...{ ok: false, code: 'connection', message: expect.stringMatching(/^ECONN/) },
  })
})
