/** Do an earlier build and this one understand each other, both ways round, and what is said when two versions do not overlap? */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { runSynthetic, type SyntheticOptions } from '@kvx/bench'
import { protocolVersion } from '@kvx/core/protocol'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { installEarlier, installVersion, repository } from './builds.ts'

const common = { backend: 'shm', from: import.meta.dirname, requests: 4, concurrency: 2 } as const

const runs: [what: string, options: SyntheticOptions][] = [
  [
    'chunks and layers in any order behind a prefix, with digests',
    {
      ...{ ...common, model: 'llama-3.1-8b', layers: 4, tokens: 300, prefix: 64, chunk: 100 },
      ...{ layersPerWrite: 2, outOfOrder: true, verifyKV: true },
    },
  ],
  [
    'other pages, another order and other ranks, with a state',
    {
      ...{ ...common, model: 'nemotron-h-8b', layers: 9, tokens: 200 },
      prefill: { tpSize: 2, pageTokens: 32 },
      decode: { pageTokens: 16, order: 'HND' },
    },
  ],
  [
    'data-parallel ranks that prefill publishes',
    {
      ...{ ...common, model: 'qwen3-32b', layers: 2, tokens: 100, dpRouting: 'published' },
      prefill: { dpSize: 2 },
    },
  ],
  [
    'aborts of decode',
    {
      ...{ ...common, model: 'llama-3.1-8b', layers: 2, tokens: 400, chunk: 100 },
      abort: { every: 2, by: 'decode' },
    },
  ],
  [
    'aborts of prefill',
    {
      ...{ ...common, model: 'llama-3.1-8b', layers: 2, tokens: 400, chunk: 100 },
      abort: { every: 2, by: 'prefill' },
    },
  ],
]

type Run = typeof runSynthetic

/** With its bootstrap service, which is prefill's. */
const runOf = async (build: string): Promise<Run> => {
  const entry = join(build, 'node_modules/@kvx/bench/dist/index.js')
  return ((await import(pathToFileURL(entry).href)) as { runSynthetic: Run }).runSynthetic
}

describe('the earlier build and this one', () => {
  let earlier: string
  beforeAll(async () => {
    earlier = await installEarlier()
  })
  afterAll(() => rm(earlier, { recursive: true }))

  test.each(runs)('this prefill sends to the earlier decode: %s', async (_, options) => {
    const { total, ok } = await runSynthetic({ ...options, builds: { decode: earlier } })
    expect(total).toMatchObject({ errors: {}, aborted: options.abort ? 2 : 0 })
    expect(ok).toBe(true)
  })

  test.each(runs)('the earlier prefill sends to this decode: %s', async (_, options) => {
    const run = await runOf(earlier)
    const { total, ok } = await run({ ...options, builds: { decode: repository } })
    expect(total).toMatchObject({ errors: {}, aborted: options.abort ? 2 : 0 })
    expect(ok).toBe(true)
  })
})

describe('versions that do not overlap', () => {
  const next = protocolVersion + 1
  let other: string
  beforeAll(async () => {
    other = await installVersion(next)
  })
  afterAll(() => rm(other, { recursive: true }))

  test.each([
    ['decode', protocolVersion, next],
    ['prefill', next, protocolVersion],
  ])('%s speaks another one: requests fail at once, and say so', async (side, peers, own) => {
    const { requests, total } = await runSynthetic({
      ...{ ...common, model: 'llama-3.1-8b', layers: 1, tokens: 64, requests: 1 },
      builds: { [side]: other },
    })
    expect(requests).toMatchObject([{ outcome: 'ERR_KVX_VERSION_MISMATCH' }])
    expect(requests[0]?.message).toContain(
      `The peer speaks protocol version ${String(peers)}; this side speaks ${String(own)}. Run the same kvx on both sides.`,
    )
    expect(total.lostPages).toBe(0)
    // No deadline was waited for: `hello` has 15 s.
    expect(total.seconds).toBeLessThan(10)
  })
})
