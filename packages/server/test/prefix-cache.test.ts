/** Beginnings of prompts that are shared: what is found, what is given back, and whose a page is. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { CachePools, type CacheLease } from '../src/worker/cache-pools.ts'
import { place, shape } from './support/small-cache.ts'

const pageTokens = 4

function poolsOf(pages: number): CachePools {
  return new CachePools({ shape, place: { ...place, components: { kv: { pageTokens, pages } } } })
}

const wanted = (tokens: readonly number[], shareable = tokens.length) => ({
  tokens,
  shareable,
  counts: (cached: number) => ({
    kv: Math.ceil(tokens.length / pageTokens) - Math.floor(cached / pageTokens),
  }),
})
const waiting = (timeoutMs = 1_000) => ({ signal: new AbortController().signal, timeoutMs })
const lease = (pools: CachePools, tokens: readonly number[], shareable?: number) =>
  pools.lease(wanted(tokens, shareable), waiting())
const pagesOf = ({ pages }: CacheLease) => [...(pages.kv ?? [])]

const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)

test('a prompt that begins like an earlier one shares its whole pages', async () => {
  const pools = poolsOf(8)
  const first = await lease(pools, numbers(0, 10))
  expect(first).toMatchObject({ cachedTokens: 0, count: 3 })
  first.keep()
  const second = await lease(pools, [...numbers(0, 8), 77, 78, 79, 80, 81])
  expect(second).toMatchObject({ cachedTokens: 8, count: 2 })
  expect(pagesOf(second).slice(0, 2)).toEqual(pagesOf(first).slice(0, 2))
  expect(pools.counts()).toEqual({ free: 3, cached: 0, leased: 5, quarantined: 0 })
  first.release()
  second.release()
  expect(pools.counts()).toEqual({ free: 6, cached: 2, leased: 0, quarantined: 0 })
})

test('no more is shared than the caller allows', async () => {
  const pools = poolsOf(8)
  const first = await lease(pools, numbers(0, 8))
  first.keep()
  first.release()
  expect((await lease(pools, numbers(0, 8), 6)).cachedTokens).toBe(4)
  expect((await lease(pools, numbers(0, 8))).cachedTokens).toBe(8)
})

test('what was not kept is shared with nobody', async () => {
  const pools = poolsOf(8)
  const first = await lease(pools, numbers(0, 8))
  first.release()
  expect((await lease(pools, numbers(0, 8))).cachedTokens).toBe(0)
})

test('of two that computed the same beginning, one copy is kept', async () => {
  const pools = poolsOf(8)
  const both = [await lease(pools, numbers(0, 9)), await lease(pools, numbers(0, 9))]
  for (const one of both) one.keep()
  for (const one of both) one.release()
  expect(pools.counts()).toEqual({ free: 6, cached: 2, leased: 0, quarantined: 0 })
})

test('cached pages make room for who needs it, the longest idle first and the end of a prompt before its beginning', async () => {
  const pools = poolsOf(6)
  for (const tokens of [numbers(0, 8), numbers(100, 108), numbers(200, 208)]) {
    const one = await lease(pools, tokens)
    one.keep()
    one.release()
  }
  expect(pools.counts()).toMatchObject({ free: 0, cached: 6 })
  const other = await lease(pools, numbers(300, 304))
  other.release()
  const cachedOf = async (tokens: readonly number[]) => {
    const one = await lease(pools, tokens)
    one.release()
    return one.cachedTokens
  }
  expect(await cachedOf(numbers(200, 208))).toBe(8)
  expect(await cachedOf(numbers(100, 108))).toBe(8)
  expect(await cachedOf(numbers(0, 8))).toBe(4)
})

test('who waits for pages gets them when others let go of cached ones', async () => {
  const pools = poolsOf(2)
  const first = await lease(pools, numbers(0, 8))
  first.keep()
  const second = lease(pools, numbers(50, 58))
  first.release()
  expect(await second).toMatchObject({ cachedTokens: 0, count: 2 })
})

test('many that wait with cached beginnings do not keep each other from running', async () => {
  const pools = poolsOf(4)
  for (const from of [0, 100]) {
    const one = await lease(pools, numbers(from, from + 8))
    one.keep()
    one.release()
  }
  const prompts = Array.from({ length: 12 }, (_, i) => {
    const from = i % 2 === 0 ? 0 : 100
    return [...numbers(from, from + 8), ...numbers(1_000 * i, 1_000 * i + 5)]
  })
  await Promise.all(
    prompts.map(async (tokens) => {
      const one = await pools.lease(wanted(tokens), waiting(5_000))
      await Promise.resolve()
      one.keep()
      one.release()
    }),
  )
  expect(pools.counts()).toMatchObject({ leased: 0, quarantined: 0 })
})

test('a flush forgets all, and gives back what is used when that has ended', async () => {
  const pools = poolsOf(6)
  const idle = await lease(pools, numbers(0, 8))
  idle.keep()
  idle.release()
  const used = await lease(pools, numbers(100, 108))
  used.keep()
  pools.flush()
  expect(pools.counts()).toEqual({ free: 4, cached: 0, leased: 2, quarantined: 0 })
  const again = await lease(pools, numbers(100, 108))
  expect(again.cachedTokens).toBe(0)
  again.release()
  used.release()
  expect(pools.counts()).toEqual({ free: 6, cached: 0, leased: 0, quarantined: 0 })
})

test('cached pages whose bytes may still be read stay until the transfer has settled', async () => {
  const pools = poolsOf(2)
  const first = await lease(pools, numbers(0, 8))
  first.keep()
  let settle: () => void = () => undefined
  first.quarantine(new Promise((resolve) => (settle = resolve)))
  await expect(pools.lease(wanted(numbers(50, 54)), waiting(5))).rejects.toMatchObject({
    code: 'ERR_KVX_POOL_EXHAUSTED',
  })
  settle()
  await expect(lease(pools, numbers(50, 54))).resolves.toMatchObject({ count: 1 })
})

test('in every order of calls a page is used by one prompt or shared by prompts that begin alike, and the counts add up', async () => {
  const size = 12
  const command = fc.oneof(
    { weight: 4, arbitrary: fc.array(fc.nat(1), { minLength: 1, maxLength: 20 }) },
    { weight: 4, arbitrary: fc.record({ at: fc.nat(), kept: fc.boolean() }) },
    { weight: 1, arbitrary: fc.constant('flush' as const) },
  )
  await fc.assert(
    fc.asyncProperty(fc.array(command, { maxLength: 60 }), async (commands) => {
      const pools = poolsOf(size)
      /** The tokens that each page was last filled for, from the first token on. */
      const contents = new Map<number, string>()
      const live: { tokens: readonly number[]; lease: CacheLease }[] = []
      const beginning = (tokens: readonly number[], page: number) =>
        tokens.slice(0, (page + 1) * pageTokens).join()
      for (const step of commands) {
        if (step === 'flush') pools.flush()
        else if (Array.isArray(step)) {
          const taken = await pools.lease(wanted(step), waiting(0)).catch(() => undefined)
          if (!taken) continue
          const pages = pagesOf(taken)
          expect(pages.length).toBe(Math.ceil(step.length / pageTokens))
          pages.forEach((page, i) => {
            const isCached = (i + 1) * pageTokens <= taken.cachedTokens
            if (isCached) expect(contents.get(page)).toBe(beginning(step, i))
            else contents.set(page, beginning(step, i))
          })
          live.push({ tokens: step, lease: taken })
        } else {
          const [ended] = live.splice(step.at % (live.length + 1), 1)
          if (step.kept) ended?.lease.keep()
          ended?.lease.release()
        }
        // Nobody's pages were given to another one.
        for (const { tokens, lease: held } of live) {
          pagesOf(held).forEach((page, i) => {
            expect(contents.get(page)).toBe(beginning(tokens, i))
          })
        }
        const { free, cached, leased, quarantined } = pools.counts()
        expect(free + cached + leased + quarantined).toBe(size)
        expect(leased).toBe(new Set(live.flatMap(({ lease: held }) => pagesOf(held))).size)
      }
    }),
    { numRuns: 500 },
  )
})
