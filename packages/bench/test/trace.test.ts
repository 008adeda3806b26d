/** Is a trace replayed as it was recorded, with the prefixes that it has, and nothing lost? */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PagePool } from '@kvx/core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { findFastest, readTrace, runTrace, traceFindings, type TracePass } from '@kvx/bench'
import { BlockCache } from '../src/trace/blocks.ts'
import { Gate } from '../src/trace/gate.ts'
import { choose } from '../src/trace/schedule.ts'
import { line, traceOptions, writeTrace } from './support/trace.ts'

let folder = ''
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-trace-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('reading', () => {
  test('the lines of a file are as they were written, up to as many as are wanted', async () => {
    const lines = [line(0, 513, [1, 2]), line(3_000, 512, [1], 40), line(3_000, 1, [9], 0)]
    const path = await writeTrace(join(folder, 'good.jsonl'), lines)
    expect(await readTrace(path)).toEqual(lines)
    expect(await readTrace(path, 2)).toEqual(lines.slice(0, 2))
  })

  const good = '{"timestamp":5,"input_length":600,"output_length":1,"hash_ids":[1,2]}\n'
  test.each([
    ['no JSON', 'x', 'line 2: it must be a JSON object, got x'],
    ['a list', '[1]', 'line 2: timestamp must be milliseconds, got nothing'],
    [
      'no tokens',
      good.replace('600', '0'),
      'line 2: input_length must be a positive integer, got 0',
    ],
    [
      'half a token',
      good.replace('600', '600.5'),
      'line 2: input_length must be a positive integer, got 600.5',
    ],
    ['text for a number', good.replace('600', '"600"'), 'got 600.'],
    [
      'too few hashes',
      good.replace('[1,2]', '[1]'),
      'line 2: hash_ids must have 2 ids for 600 tokens, one for each 512, got 1',
    ],
    [
      'a time that goes back',
      good.replace('5', '4'),
      'line 2: its timestamp is before that of the line above',
    ],
  ])('%s is refused with the number of its line', async (name, second, reason) => {
    const path = join(folder, `${name}.jsonl`)
    await writeFile(path, good + second)
    await expect(readTrace(path)).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_ARGUMENT',
      message: expect.stringContaining(reason),
    })
  })

  test('a file without lines, and one that is not there, are refused', async () => {
    const empty = join(folder, 'empty.jsonl')
    await writeFile(empty, '\n')
    await expect(readTrace(empty)).rejects.toThrow('it has no line')
    await expect(readTrace(join(folder, 'none'))).rejects.toThrow(
      'none: cannot be read: no such file or directory',
    )
  })
})

describe('the prefix cache', () => {
  const each = (pages: number) => (held: number) => Array.from({ length: 3 - held }, () => pages)

  test('finds the blocks at the beginning of a prompt, and none after one that is missing', async () => {
    const cache = new BlockCache(new PagePool(30))
    const { leases } = await cache.take([1, 2, 3], each(2))
    const kept = [1, 3].map((id, i) => cache.keep(id, leases[i]!))
    expect((await cache.take([1, 2, 3], each(2))).pinned.map(({ id }) => id)).toEqual([1])
    cache.unpin(kept)
  })

  test('drops what was not used for longest, and nothing that is read', async () => {
    const pool = new PagePool(6)
    const cache = new BlockCache(pool)
    const { leases } = await cache.take([], each(2))
    const kept = [1, 2, 3].map((id, i) => cache.keep(id, leases[i]!))
    cache.unpin([kept[1]!, kept[0]!])
    await cache.take([], () => [2])
    expect((await cache.take([2], () => [])).pinned).toEqual([])
    expect((await cache.take([1], () => [])).pinned).toHaveLength(1)
  })

  test('who needs more than is free waits until readers have gone, and those behind wait with it', async () => {
    const cache = new BlockCache(new PagePool(4))
    const { leases } = await cache.take([], () => [3])
    const order: string[] = []
    const large = cache
      .take([], () => [4])
      .then(({ leases: [lease] }) => {
        order.push('large')
        cache.release(lease!)
      })
    const small = cache.take([], () => [1]).then(() => order.push('small'))
    cache.release(leases[0]!)
    await Promise.all([large, small])
    expect(order).toEqual(['large', 'small'])
  })

  test('a prompt larger than the pool is refused, and does not stop others', async () => {
    const cache = new BlockCache(new PagePool(4))
    await expect(cache.take([], () => [5])).rejects.toMatchObject({
      code: 'ERR_KVX_POOL_EXHAUSTED',
    })
    expect((await cache.take([], () => [4])).leases).toHaveLength(1)
  })

  test('all pages are free when it is cleared, also those of blocks that two requests brought', async () => {
    const pool = new PagePool(8)
    const cache = new BlockCache(pool)
    const first = await cache.take([], () => [2])
    const twin = await cache.take([], () => [2])
    cache.unpin([cache.keep(7, first.leases[0]!)])
    cache.unpin([cache.keep(7, twin.leases[0]!)])
    cache.clear()
    expect(pool.counts().free).toBe(8)
  })
})

test('the longest known prefix chooses, unless its instance is far busier', async () => {
  const instance = async (name: string, busy: number, blocks: number[]) => {
    const gate = new Gate(100)
    for (let i = 0; i < busy; i++) await gate.enter()
    return { name, gate, blocks: new Set(blocks) }
  }
  const idle = await instance('idle', 1, [])
  const knowing = await instance('knowing', 2, [1, 2])
  const swamped = await instance('swamped', 9, [1, 2, 3])
  expect(choose([idle, knowing, swamped], [1, 2, 3]).name).toBe('knowing')
  expect(choose([idle, knowing, swamped], [5]).name).toBe('idle')
})

test('a prefix that decode has does not cross, and its bytes are right all the same', async () => {
  const lines = [line(0, 1_300, [1, 2, 3]), line(0, 1_500, [1, 2, 4]), line(0, 1_024, [1, 2])]
  // One after the other: a prefix is there when its request has ended.
  const pass = await runTrace(traceOptions(lines, { maxRunning: 1 }))
  expect(pass.requests.map(({ outcome, prefixTokens }) => [outcome, prefixTokens])).toEqual([
    ['ok', 0],
    ['ok', 1_024],
    // Of a prompt that is all there the last block is computed again.
    ['ok', 512],
  ])
  // 8 heads of 128 numbers in two bytes, of K and V.
  const perToken = 2 * 8 * 128 * 2
  expect(pass.bytesPerToken).toBe(perToken)
  const [whole, , second] = pass.requests
  expect(whole?.bytes).toBe(Math.ceil(1_300 / 16) * 16 * perToken)
  expect(second?.bytes).toBe(512 * perToken)
  // Decode looks at the prefix too.
  expect(second?.verifiedBytes).toBe(1_024 * perToken)
  expect(pass.lostPages).toBe(0)
})

test('two instances of each kind share a trace, whose prompts do not all fit into their pools', async () => {
  const lines = Array.from({ length: 40 }, (_, i) =>
    line(i * 1_000, 1_100 + i, [i % 2, 100 + (i % 7), 200 + i], 20),
  )
  const options = { prefill: 2, decode: 2, poolTokens: 4_096, itlMs: 100, maxRunning: 2 }
  const pass = await runTrace(traceOptions(lines, options))
  expect(pass.requests.map(({ outcome }) => outcome)).toEqual(lines.map(() => 'ok'))
  expect(pass.requests.some(({ prefixTokens = 0 }) => prefixTokens > 0)).toBe(true)
  expect(pass).toMatchObject({ arrived: 40, lostPages: 0 })
})

test('more than fits is refused: every line ends, and nothing is lost or leaked', async () => {
  const lines = Array.from({ length: 30 }, (_, i) =>
    line(0, 2_000, [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3], 10),
  )
  const pass = await runTrace(traceOptions(lines, { maxQueued: 3, maxRunning: 2, itlMs: 5_000 }))
  const outcomes = new Set(pass.requests.map(({ outcome }) => outcome))
  expect(outcomes).toEqual(new Set(['ok', 'refused']))
  expect(new Set(pass.requests.map(({ number }) => number)).size).toBe(30)
  const found = traceFindings([pass], [], {}, false)
  expect(found.ok).toBe(true)
  expect(found.tables[0]?.rows).toContainEqual(['lost', '0'])
})

test('a prompt that no pool has room for fails alone, with a code', async () => {
  const lines = [line(0, 600, [1, 2]), line(1, 3_000, [3, 4, 5, 6, 7, 8]), line(2, 600, [1, 9])]
  const pass = await runTrace(traceOptions(lines, { poolTokens: 1_024 }))
  const outcomes = pass.requests
    .toSorted((a, b) => a.number - b.number)
    .map(({ outcome }) => outcome)
  expect(outcomes).toEqual(['ok', 'ERR_KVX_POOL_EXHAUSTED', 'ok'])
  expect(traceFindings([pass], [], {}, false).ok).toBe(false)
})

test.each([
  ['up', 1, 5, [1, 1.5, 2.3, 3.4, 5.1]],
  ['down', 20, 5, [20, 13, 8.7, 5.8, 3.9]],
])(
  'the fastest speed is looked for %s, from where it is tried first',
  async (_, first, limit, tried) => {
    const pass = (speed: number): Promise<TracePass> =>
      Promise.resolve({
        ...{ speed, arrived: 1, seconds: 1, lostPages: 0, bytesPerToken: 1 },
        engine: { backend: 'shm', version: '1' },
        requests: [{ number: 1, tokens: 1, outcome: speed <= limit ? 'ok' : 'refused' }],
      })
    const { passes, fastest } = await findFastest(first, pass, () => false)
    expect(passes.map(({ speed }) => speed)).toEqual(tried)
    expect(fastest?.speed).toBe(Math.max(...tried.filter((speed) => speed <= limit)))
  },
)
