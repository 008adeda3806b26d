import fc from 'fast-check'
import { expect, test } from 'vitest'
import { chunkEnds } from '../src/evaluate.ts'
import { Turns } from '../src/turns.ts'
import { Slots } from '../src/queue.ts'
import { resolveSampling, seedAt } from '../src/sampling.ts'

test('chunks cover the prompt, none is longer than one more than asked for, and none has one token', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 3000 }),
      fc.integer({ min: 2, max: 600 }),
      (tokens, chunk) => {
        const ends = chunkEnds(tokens, chunk)
        expect(ends.at(-1)).toBe(tokens)
        let start = 0
        for (const end of ends) {
          expect(end - start).toBeLessThanOrEqual(chunk + 1)
          if (tokens > 1) expect(end - start).toBeGreaterThan(1)
          if (end !== tokens) expect(end - start).toBe(chunk)
          start = end
        }
      },
    ),
  )
  expect(chunkEnds(1000, 100)).toEqual([100, 200, 300, 400, 500, 600, 700, 800, 900, 1000])
  expect(chunkEnds(75, 37)).toEqual([37, 75])
  expect(chunkEnds(1, 37)).toEqual([1])
})

test('a slot goes to whoever has waited longest', async () => {
  const slots = new Slots(['only'])
  const order: number[] = []
  const first = await slots.acquire()
  const waiting = [1, 2, 3].map(async (number) => {
    const slot = await slots.acquire()
    order.push(number)
    slots.release(slot)
  })
  expect(slots.waiting).toBe(3)
  slots.release(first)
  await Promise.all(waiting)
  expect(order).toEqual([1, 2, 3])
  expect(slots.free).toBe(1)
})

test('whoever is aborted while waiting leaves the line and takes no slot', async () => {
  const slots = new Slots(['only'])
  const held = await slots.acquire()
  const aborted = new AbortController()
  const gone = slots.acquire(aborted.signal)
  const next = slots.acquire()
  aborted.abort(new Error('client went away'))
  await expect(gone).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  slots.release(held)
  expect(await next).toBe('only')
  await expect(slots.acquire(aborted.signal)).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
})

test('closing slots fails those who wait and those who come later', async () => {
  const slots = new Slots([1])
  await slots.acquire()
  const waiting = slots.acquire()
  slots.close()
  await expect(waiting).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
  await expect(slots.acquire()).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
})

test('exclusive work is alone, shared work is together, and both start in the order they came', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.boolean(), { maxLength: 12 }),
      fc.scheduler(),
      async (kinds, scheduler) => {
        const turns = new Turns()
        const started: number[] = []
        let shared = 0
        let exclusive = 0
        const all = kinds.map((alone, number) =>
          turns[alone ? 'exclusive' : 'shared'](async () => {
            started.push(number)
            if (alone) exclusive++
            else shared++
            expect(exclusive === 0 || (exclusive === 1 && shared === 0)).toBe(true)
            await scheduler.schedule(Promise.resolve(), String(number))
            expect(exclusive === 0 || (exclusive === 1 && shared === 0)).toBe(true)
            if (alone) exclusive--
            else shared--
          }),
        )
        await scheduler.waitFor(Promise.all(all))
        expect(started).toEqual([...kinds.keys()])
      },
    ),
  )
})

test('shared work runs at the same time', async () => {
  const turns = new Turns()
  let arrived = 0
  let open: (() => void) | undefined
  const all = new Promise<void>((resolve) => {
    open = resolve
  })
  const meet = async (): Promise<void> => {
    if (++arrived === 3) open?.()
    await all
  }
  await Promise.all([turns.shared(meet), turns.shared(meet), turns.shared(meet)])
})

test('closing turns refuses what waits and resolves when what runs has ended', async () => {
  const turns = new Turns()
  let end: (() => void) | undefined
  const running = turns.exclusive(() => new Promise<void>((resolve) => (end = resolve)))
  const waiting = turns.shared(() => Promise.resolve())
  const events: string[] = []
  await Promise.resolve()
  const closed = turns.close().then(() => events.push('closed'))
  await expect(waiting).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
  events.push('ending')
  end?.()
  await Promise.all([running, closed])
  expect(events).toEqual(['ending', 'closed'])
  await expect(turns.shared(() => Promise.resolve())).rejects.toMatchObject({
    code: 'ERR_KVX_CLOSED',
  })
})

test('work that fails lets the next one in', async () => {
  const turns = new Turns()
  const failed = turns.exclusive(() => Promise.reject(new Error('no')))
  const next = turns.exclusive(() => Promise.resolve('yes'))
  await expect(failed).rejects.toThrow('no')
  expect(await next).toBe('yes')
})

test('the seed of a draw depends on the request and the position alone, and is never the one that means random', () => {
  fc.assert(
    fc.property(fc.maxSafeInteger(), fc.nat(100_000), (seed, position) => {
      const drawn = seedAt(seed, position)
      expect(seedAt(seed, position)).toBe(drawn)
      expect(Number.isInteger(drawn) && drawn >= 0 && drawn < 0xffff_ffff).toBe(true)
      expect(seedAt(seed, position + 1)).not.toBe(drawn)
    }),
  )
})

test('sampling that makes no sense is refused by name', () => {
  const refused = (sampling: object): unknown => {
    try {
      return resolveSampling(sampling)
    } catch (error) {
      return error
    }
  }
  const code = 'ERR_KVX_INVALID_ARGUMENT'
  expect(refused({ temperature: -1 })).toMatchObject({
    code,
    message: expect.stringContaining('temperature is -1') as string,
  })
  expect(refused({ temperature: NaN })).toMatchObject({ code })
  expect(refused({ topP: 0 })).toMatchObject({ code })
  expect(refused({ topP: 1.5 })).toMatchObject({ code })
  expect(refused({ topK: 2.5 })).toMatchObject({ code })
  expect(refused({ seed: 0.5 })).toMatchObject({ code })
  expect(refused({})).toMatchObject({ temperature: 0, topK: 0, topP: 1 })
})
