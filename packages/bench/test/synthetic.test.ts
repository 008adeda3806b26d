/** Whole requests between instances of one process per rank, over shm: every byte at decode, and the digests. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { placeOf, ranksOf, runSynthetic, shapeOf, type SyntheticOptions } from '@kvx/bench'
import type { CacheShape } from '@kvx/core'
import { describe, expect, onTestFinished, test } from 'vitest'
import { neededBytes } from './support/needed.ts'

const from = import.meta.url
const tokens = 150
type Case = Omit<SyntheticOptions, 'backend' | 'tokens'> & { tokens?: number }

/** Fewer heads than decode has ranks: of these, two each have the same one. */
const twoHeads: CacheShape = {
  model: 'two heads',
  layers: 3,
  components: [
    {
      ...{ name: 'kv', addressed: 'tokens' },
      tensors: [0, 1, 2].flatMap((layer) =>
        ['k', 'v'].map((part) => ({
          ...{ layer, part, dtype: 'bf16', units: 2, unitBytes: 128, elementBytes: 2 },
        })),
      ),
    },
  ],
}

const cases: [string, Case][] = [
  ['TP4 to TP2', { model: 'llama-3.1-70b', prefill: { tpSize: 4 }, decode: { tpSize: 2 } }],
  ['TP2 to TP4', { model: 'qwen3-32b', prefill: { tpSize: 2 }, decode: { tpSize: 4 } }],
  ['TP1 to TP4 with 2 heads', { model: twoHeads, decode: { tpSize: 4 } }],
  ['TP4 with 2 heads to TP1', { model: twoHeads, prefill: { tpSize: 4 } }],
  [
    'TP1 to TP4 with a draft layer of 2 heads',
    { model: 'llama-3.1-8b', draft: { kvHeads: 2, headDim: 64 }, decode: { tpSize: 4 } },
  ],
  [
    'TP8 with 4 heads to TP2',
    { model: 'qwen3-235b-a22b', prefill: { tpSize: 8 }, decode: { tpSize: 2 } },
  ],
  [
    'MLA with its index, TP8 to TP4',
    {
      ...{ model: 'deepseek-v3', layers: 5, index: true, dtype: 'fp8', draft: true },
      ...{ prefill: { tpSize: 8, pageTokens: 64 }, decode: { tpSize: 4, pageTokens: 64 } },
    },
  ],
  [
    'PP2 with TP2 to TP2',
    {
      ...{ model: 'llama-3.1-8b', layers: 4 },
      ...{ prefill: { tpSize: 2, ppSize: 2 }, decode: { tpSize: 2 } },
    },
  ],
  [
    'three unequal stages to two',
    {
      ...{ model: 'llama-3.1-8b', layers: 6 },
      ...{ prefill: { stages: [0, 1, 4, 6] }, decode: { ppSize: 2 } },
    },
  ],
  [
    'CP2 in runs of pages to one rank',
    { model: 'llama-3.1-8b', prefill: { cpSize: 2, context: 'contiguous' } },
  ],
  [
    'CP2 dealt out in turn to one rank with other pages',
    {
      model: 'llama-3.1-8b',
      prefill: { cpSize: 2, context: { interleave: 1 } },
      decode: { pageTokens: 64 },
    },
  ],
  [
    'CP2 with TP2, of which both have all tokens, to TP2',
    {
      model: 'llama-3.1-8b',
      prefill: { cpSize: 2, tpSize: 2, context: 'all' },
      decode: { tpSize: 2 },
    },
  ],
  [
    'CP4 dealt out in turn to CP2',
    {
      model: 'llama-3.1-8b',
      prefill: { cpSize: 4, context: { interleave: 4 } },
      decode: { cpSize: 2, context: { interleave: 1 } },
    },
  ],
  [
    'pages of 16 to pages of 64, TP2 to TP1',
    {
      model: 'llama-3.1-8b',
      prefill: { tpSize: 2, pageTokens: 16 },
      decode: { pageTokens: 64, order: 'HND' },
    },
  ],
  [
    'pages of 64 to pages of 16, values by dimension',
    {
      model: 'llama-3.1-8b',
      prefill: { pageTokens: 64, order: 'HDN' },
      decode: { tpSize: 2, pageTokens: 16 },
    },
  ],
  [
    'windows, TP4 to TP2',
    {
      ...{ model: 'gpt-oss-120b', layers: 4, tokens: 333, chunk: 100 },
      ...{ prefill: { tpSize: 4 }, decode: { tpSize: 2 } },
    },
  ],
  [
    'Mamba, TP2 to TP4, its state as soon as its layers are computed',
    {
      ...{ model: 'nemotron-h-8b', layers: 9, layersPerWrite: 4 },
      ...{ prefill: { tpSize: 2 }, decode: { tpSize: 4 } },
    },
  ],
  [
    'FP8 with scales, TP4 to TP2, pages of 16 to 32',
    {
      ...{ model: 'llama-3.1-70b', dtype: 'fp8' },
      ...{ prefill: { tpSize: 4 }, decode: { tpSize: 2, pageTokens: 32 } },
    },
  ],
  [
    'DP2 with TP2 to DP3',
    {
      ...{ model: 'llama-3.1-8b', requests: 6 },
      ...{ prefill: { dpSize: 2, tpSize: 2 }, decode: { dpSize: 3 } },
    },
  ],
  [
    'DP3 with TP2 to TP4, of which prefill publishes which one it chose',
    {
      ...{ model: 'llama-3.1-8b', requests: 6, dpRouting: 'published' },
      ...{ prefill: { dpSize: 3, tpSize: 2 }, decode: { tpSize: 4 } },
    },
  ],
  [
    'DP2 to DP2 with TP2, as both sides are told',
    {
      ...{ model: 'llama-3.1-8b', requests: 4, dpRouting: 'given' },
      ...{ prefill: { dpSize: 2 }, decode: { dpSize: 2, tpSize: 2 } },
    },
  ],
  [
    'DP2 with PP2 to DP2 with PP2, published',
    {
      ...{ model: 'llama-3.1-8b', layers: 4, requests: 4, dpRouting: 'published' },
      ...{ prefill: { dpSize: 2, stages: [0, 1, 4] }, decode: { dpSize: 2, ppSize: 2 } },
    },
  ],
  [
    'a prefix that decode has, TP2 to TP4',
    {
      ...{ model: 'gpt-oss-120b', layers: 4, tokens: 300, prefix: 208 },
      ...{ prefill: { tpSize: 2 }, decode: { tpSize: 4 } },
    },
  ],
  [
    'a full prefix hit: no page moves, and state all the same',
    {
      ...{ model: 'nemotron-h-8b', layers: 9, prefix: tokens },
      ...{ prefill: { tpSize: 2 }, decode: { tpSize: 1 } },
    },
  ],
  [
    'a full prefix hit of windows: nothing moves but the first token',
    {
      ...{ model: 'gpt-oss-120b', layers: 4, prefix: tokens },
      ...{ prefill: { tpSize: 4 }, decode: { tpSize: 2 } },
    },
  ],
  [
    'layer ranges out of order, chunks cut anywhere',
    {
      ...{ model: 'llama-3.1-70b', layers: 7, layersPerWrite: 2, outOfOrder: true, chunk: 23 },
      ...{ prefill: { tpSize: 2 }, decode: { tpSize: 1 } },
    },
  ],
]

describe.each(cases)('%s', (_name, given) => {
  test('every byte and digest that decode needs is right, and all pages come back', async () => {
    const options = { tokens, layers: 3, chunk: 37, requests: 2, concurrency: 2, ...given }
    const { requests, total } = await runSynthetic({
      ...options,
      ...{ backend: 'shm', from, verifyKV: true },
    })
    expect(requests.map(({ message }) => message)).toEqual(requests.map(() => undefined))
    expect(total).toMatchObject({ succeeded: options.requests, lostPages: 0, errors: {} })

    const { model } = options
    const shape = typeof model === 'string' ? shapeOf(model, options) : model
    const { pageTokens = 16, ...topology } = options.decode ?? {}
    const needed = ranksOf({ ...topology, dpSize: 1 }, shape.layers).reduce((sum, rank) => {
      const { place } = placeOf(shape, rank, { pageTokens, pages: 1 })
      return sum + neededBytes({ shape, rank, place }, options.tokens, options.prefix ?? 0)
    }, 0)
    for (const { verifiedBytes, bytes } of requests) {
      expect(verifiedBytes).toBe(needed)
      expect(bytes).toBeGreaterThanOrEqual(needed)
      // No page moves, not even one of which nothing is looked at.
      if (options.prefix === options.tokens) expect(bytes).toBe(needed)
    }
  })
})

const unequal: Omit<SyntheticOptions, 'backend'> = {
  ...{ model: 'llama-3.1-70b', layers: 3, tokens, chunk: 37, from },
  ...{ prefill: { tpSize: 4 }, decode: { tpSize: 2 } },
}

/** Those of the table above in which the most differs between the two sides. */
const aborted = [
  ['TP4 to TP2', 'prefill'],
  ['TP4 to TP2', 'decode'],
  ['MLA with its index, TP8 to TP4', 'prefill'],
  ['three unequal stages to two', 'decode'],
  ['CP4 dealt out in turn to CP2', 'prefill'],
  ['windows, TP4 to TP2', 'decode'],
  ['Mamba, TP2 to TP4, its state as soon as its layers are computed', 'prefill'],
  ['Mamba, TP2 to TP4, its state as soon as its layers are computed', 'decode'],
  ['DP3 with TP2 to TP4, of which prefill publishes which one it chose', 'decode'],
] as const

test.each(aborted)(
  '%s, %s aborts in the middle: the pages come back, and the next request is right',
  async (name, by) => {
    const layout = cases.find(([known]) => known === name)![1]
    const { requests, total } = await runSynthetic({
      ...{ tokens, layers: 3, chunk: 37, from, ...layout },
      ...{ backend: 'shm', verifyKV: true, requests: 4, abort: { every: 2, by } },
    })
    expect(requests.map(({ outcome }) => outcome)).toEqual(['ok', 'aborted', 'ok', 'aborted'])
    expect(total).toMatchObject({ lostPages: 0, errors: {} })
  },
)

test('a request is aborted also where a rank has nothing to write before the end', async () => {
  const { requests } = await runSynthetic({
    ...{ model: 'nemotron-h-8b', layers: 9, tokens, backend: 'shm', from },
    ...{ prefill: { stages: [0, 2, 9] }, requests: 2, abort: { every: 2, by: 'decode' } },
  })
  expect(requests.map(({ outcome }) => outcome)).toEqual(['ok', 'aborted'])
})

test('a full prefix hit in the middle of a row of scales leaves nothing to look at', async () => {
  const { requests } = await runSynthetic({
    ...{ ...unequal, dtype: 'fp8', prefix: tokens, backend: 'shm' },
    ...{ prefill: {}, decode: {} },
  })
  expect(requests).toMatchObject([{ outcome: 'ok', verifiedBytes: 0 }])
})

const small: typeof unequal = { ...unequal, prefill: { tpSize: 2 }, decode: {} }
const lossy = fileURLToPath(new URL('support/lossy.mjs', import.meta.url))

test.each(['everything', 'the last block'])(
  'an engine that loses %s and says nothing is found out by the bytes',
  async (lose) => {
    const { ok, requests } = await runSynthetic({
      ...small,
      ...{ backend: lossy, backendOptions: { lose } },
    })
    expect(ok).toBe(false)
    expect(requests).toMatchObject([{ outcome: 'wrong' }])
    expect(requests[0]?.message).toMatch(/^kv layer \d [kv], unit \d, row \d+, byte 0 must be 0x/)
  },
)

test.each(['everything', 'the last block'])(
  'an engine that loses %s and says nothing is found out by the digests alone',
  async (lose) => {
    const { requests } = await runSynthetic({
      ...small,
      ...{ backend: lossy, backendOptions: { lose }, verifyKV: true, unverified: true },
    })
    expect(requests).toMatchObject([{ outcome: 'ERR_KVX_CHECKSUM_MISMATCH' }])
  },
)

test('a fake prefill answers at once: no page moves', async () => {
  const { total } = await runSynthetic({ ...small, backend: 'shm', fake: true, requests: 20 })
  expect(total).toMatchObject({ succeeded: 20, bytes: 0, lostPages: 0 })
})

test.each([
  ['a model that is not in the table', { model: 'llama-4' as never }, 'model must be one of'],
  [
    'ranks that do not divide the heads',
    { decode: { tpSize: 3 } },
    'tpSize of decode is 3. kv layer 0 k has 8 units',
  ],
  ['a prefix beyond the prompt', { prefix: tokens + 1 }, 'prefix must be an integer from 0 to'],
  [
    'half a page',
    { prefill: { pageTokens: 3.5 } },
    'prefill.pageTokens must be a positive integer',
  ],
  [
    'a fake prefill of which one is aborted',
    { fake: true, abort: { every: 1, by: 'decode' } as const },
    'do not go',
  ],
  ['no request', { requests: 0 }, 'requests must be a positive integer, got 0'],
])('%s is refused before any process is started', async (_what, wrong, message) => {
  await expect(runSynthetic({ ...small, backend: 'shm', ...wrong })).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message: expect.stringContaining(message) as string,
  })
})

test('a backend that is not there ends the run with its error', async () => {
  await expect(runSynthetic({ ...small, backend: 'no-such-engine' })).rejects.toMatchObject({
    code: 'ERR_KVX_BACKEND_NOT_INSTALLED',
  })
})

test('an aborted run leaves no process behind', async () => {
  const stop = new AbortController()
  const run = runSynthetic({
    ...{ ...small, backend: 'shm', requests: 1000, signal: stop.signal },
    onProgress: (ended) => {
      if (ended === 1) stop.abort()
    },
  })
  await expect(run).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  expect(process.getActiveResourcesInfo()).not.toContain('ProcessWrap')
})

test('a rank that dies ends the run, with its name', async () => {
  const run = runSynthetic({
    ...{ ...small, backend: 'shm', requests: 1000 },
    onProgress: (ended) => {
      if (ended === 1) process.kill(Number(childrenOf(process.pid).at(-1)), 'SIGKILL')
    },
  })
  await expect(run).rejects.toMatchObject({
    code: 'ERR_KVX_INTERNAL',
    message: 'The process of decode rank tp0/pp0/cp0/dp0 ended: signal SIGKILL.',
  })
})

/** Process ids, in the order in which they were started. */
function childrenOf(pid: number): string[] {
  const path = `/proc/${String(pid)}/task/${String(pid)}/children`
  return readFileSync(path, 'utf8').trim().split(' ')
}

test('ranks end with the process that started them, also when it is killed', async () => {
  const script = fileURLToPath(new URL('support/endless.mjs', import.meta.url))
  const parent = fork(script, [], { execArgv: [] })
  onTestFinished(() => {
    parent.kill('SIGKILL')
  })
  await once(parent, 'message')
  const ranks = childrenOf(parent.pid!)
  expect(ranks).toHaveLength(2)
  parent.kill('SIGKILL')
  // The limit of the test is the deadline.
  while (ranks.some((pid) => existsSync(`/proc/${pid}`))) await setImmediate()
})
