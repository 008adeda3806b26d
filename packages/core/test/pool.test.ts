import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { PagePool, type Lease } from '../src/pool/pool.ts'

function leaseOf(pool: PagePool, count: number): Lease {
  const lease = pool.tryAllocate(count)
  if (lease === undefined) throw new Error('no free pages')
  return lease
}

test('a fresh pool hands out consecutive pages', () => {
  const pool = new PagePool(8)
  expect([...leaseOf(pool, 3).pages]).toEqual([0, 1, 2])
  expect([...leaseOf(pool, 5).pages]).toEqual([3, 4, 5, 6, 7])
  expect(pool.counts()).toEqual({ free: 0, leased: 8, quarantined: 0 })
  expect(pool.tryAllocate(1)).toBeUndefined()
})

test('a run that is long enough is preferred to scattered pages', () => {
  const pool = new PagePool(10)
  const leases = Array.from({ length: 10 }, () => leaseOf(pool, 1))
  for (const page of [1, 4, 6, 7, 8]) leases[page]?.release()
  expect([...leaseOf(pool, 3).pages]).toEqual([6, 7, 8])
  expect([...leaseOf(pool, 2).pages]).toEqual([1, 4])
})

test('a closed lease cannot be released or quarantined again', () => {
  const pool = new PagePool(4)
  const ended = expect.objectContaining({ code: 'ERR_KVX_INVALID_STATE' }) as Error
  const released = leaseOf(pool, 2)
  released.release()
  const other = leaseOf(pool, 4)
  expect(() => {
    released.release()
  }).toThrow(ended)
  expect(() => {
    released.quarantine(Promise.resolve())
  }).toThrow(ended)
  expect(pool.counts()).toEqual({ free: 0, leased: 4, quarantined: 0 })
  other.quarantine(new Promise(() => undefined))
  expect(() => {
    other.release()
  }).toThrow(ended)
  expect(pool.counts()).toEqual({ free: 0, leased: 0, quarantined: 4 })
})

test('quarantined pages stay away for any length of time, until the promise resolves', async () => {
  vi.useFakeTimers()
  try {
    const pool = new PagePool(4)
    let settle: () => void = () => undefined
    leaseOf(pool, 4).quarantine(
      new Promise((resolve) => {
        settle = resolve
      }),
    )
    const waiting = pool.allocate(1, { timeoutMs: 1_000_000_000 })
    await vi.advanceTimersByTimeAsync(999_999_999)
    expect(pool.counts()).toEqual({ free: 0, leased: 0, quarantined: 4 })
    settle()
    expect([...(await waiting).pages]).toEqual([0])
    expect(pool.counts()).toEqual({ free: 3, leased: 1, quarantined: 0 })
  } finally {
    vi.useRealTimers()
  }
})

test('pages whose quarantine cannot end stay quarantined', async () => {
  const pool = new PagePool(4)
  leaseOf(pool, 4).quarantine(Promise.reject(new Error('the fence failed')))
  await Promise.resolve()
  await Promise.resolve()
  expect(pool.counts()).toEqual({ free: 0, leased: 0, quarantined: 4 })
})

test('who changes the list of pages of a lease cannot free pages of another', () => {
  const pool = new PagePool(2)
  const one = leaseOf(pool, 1)
  leaseOf(pool, 1)
  one.pages[0] = 1
  one.release()
  expect([...leaseOf(pool, 1).pages]).toEqual([0])
})

test('those who wait are served in their order, and nobody overtakes them', async () => {
  const pool = new PagePool(4)
  const first = leaseOf(pool, 2)
  const second = leaseOf(pool, 2)
  const order: number[] = []
  const large = pool.allocate(4).then((lease) => {
    order.push(4)
    return lease
  })
  const small = pool.allocate(1).then((lease) => {
    order.push(1)
    return lease
  })
  first.release()
  expect(pool.tryAllocate(1)).toBeUndefined()
  second.release()
  ;(await large).release()
  await small
  expect(order).toEqual([4, 1])
})

test('who gives up lets those behind pass', async () => {
  const pool = new PagePool(4)
  leaseOf(pool, 2)
  const controller = new AbortController()
  const large = pool.allocate(4, { signal: controller.signal })
  const small = pool.allocate(2)
  controller.abort(new Error('client went away'))
  await expect(large).rejects.toMatchObject({
    code: 'ERR_KVX_ABORTED',
    cause: new Error('client went away'),
  })
  expect((await small).pages).toHaveLength(2)
})

test('waiting ends at the deadline and says who holds the pages', async () => {
  const pool = new PagePool(4)
  leaseOf(pool, 1).quarantine(new Promise(() => undefined))
  leaseOf(pool, 2)
  await expect(pool.allocate(2, { timeoutMs: 5 })).rejects.toMatchObject({
    code: 'ERR_KVX_POOL_EXHAUSTED',
    message: '2 pages did not become free within 5 ms: 1 are free, 2 in use, 1 quarantined.',
  })
  expect(pool.counts()).toEqual({ free: 1, leased: 2, quarantined: 1 })
})

test('more than the pool holds fails at once', async () => {
  await expect(new PagePool(4).allocate(5, { timeoutMs: 3_600_000 })).rejects.toMatchObject({
    code: 'ERR_KVX_POOL_EXHAUSTED',
  })
})

test('some pages of a lease become a lease of their own, which ends by itself', () => {
  const pool = new PagePool(6)
  const lease = leaseOf(pool, 4)
  const part = lease.split([2, 0])
  expect([[...part.pages], [...lease.pages]]).toEqual([
    [0, 2],
    [1, 3],
  ])
  lease.release()
  expect(pool.counts()).toEqual({ free: 4, leased: 2, quarantined: 0 })
  part.release()
  expect(pool.counts()).toEqual({ free: 6, leased: 0, quarantined: 0 })
})

test('a lease cannot give what it does not have', () => {
  const pool = new PagePool(6)
  const lease = leaseOf(pool, 2)
  leaseOf(pool, 2)
  const refused = { code: 'ERR_KVX_INVALID_ARGUMENT', message: 'The lease has no page 2.' }
  expect(() => lease.split([0, 2])).toThrow(expect.objectContaining(refused))
  expect([...lease.pages]).toEqual([0, 1])
  lease.release()
  const ended = { code: 'ERR_KVX_INVALID_STATE' }
  expect(() => lease.split([0])).toThrow(expect.objectContaining(ended))
})

test('no pages is a lease, too', async () => {
  const pool = new PagePool(0)
  const lease = await pool.allocate(0)
  expect(lease.pages).toHaveLength(0)
  lease.release()
})

test.each([-1, 1.5, NaN])('%s is no number of pages', async (count) => {
  const invalid = { code: 'ERR_KVX_INVALID_ARGUMENT' }
  const pool = new PagePool(4)
  expect(() => pool.tryAllocate(count)).toThrow(expect.objectContaining(invalid))
  await expect(pool.allocate(count)).rejects.toMatchObject(invalid)
  expect(() => new PagePool(count)).toThrow(expect.objectContaining(invalid))
})

test('in every order of calls each page has one owner, and the counts add up', async () => {
  const size = 24
  const command = fc.oneof(
    fc.record({ kind: fc.constant('allocate' as const), count: fc.nat(10) }),
    fc.record({
      kind: fc.constantFrom(
        'release' as const,
        'quarantine' as const,
        'settle' as const,
        'split' as const,
      ),
      at: fc.nat(),
    }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(command, { maxLength: 60 }), async (commands) => {
      const pool = new PagePool(size)
      const leases: Lease[] = []
      const quarantined: { lease: Lease; settle: () => void }[] = []
      for (const step of commands) {
        if (step.kind === 'allocate') {
          const free = pool.counts().free
          const lease = pool.tryAllocate(step.count)
          expect(lease !== undefined).toBe(step.count <= free)
          if (lease !== undefined) leases.push(lease)
        } else if (step.kind === 'settle') {
          quarantined.splice(step.at % (quarantined.length + 1), 1)[0]?.settle()
          await Promise.resolve()
        } else if (step.kind === 'split') {
          const lease = leases[step.at % (leases.length + 1)]
          if (lease) leases.push(lease.split([...lease.pages].filter((page) => page % 2 === 0)))
        } else {
          const lease = leases.splice(step.at % (leases.length + 1), 1)[0]
          if (step.kind === 'release') lease?.release()
          else if (lease !== undefined) {
            const until = new Promise<void>((settle) => {
              quarantined.push({ lease, settle })
            })
            lease.quarantine(until)
          }
        }
        const owned = [...leases, ...quarantined.map(({ lease }) => lease)].flatMap(({ pages }) => [
          ...pages,
        ])
        expect(new Set(owned).size).toBe(owned.length)
        for (const page of owned) expect(page >= 0 && page < size).toBe(true)
        const leased = leases.reduce((sum, { pages }) => sum + pages.length, 0)
        expect(pool.counts()).toEqual({
          free: size - owned.length,
          leased,
          quarantined: owned.length - leased,
        })
      }
    }),
    { numRuns: 200 },
  )
})
