import { createHash } from 'node:crypto'
import { allocate } from '@kvx/native'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { forkOwner, open, pair, scattered } from './processes.ts'

const shuffledPages = (count: number): number[] =>
  fc.sample(fc.shuffledSubarray([...Array(count).keys()], { minLength: count }), 1)[0] ?? []

for (const copyThreads of [1, 2, 4]) {
  test(`scattered pages arrive whole with ${String(copyThreads)} copy threads`, async () => {
    const pageBytes = 3000
    const order = shuffledPages(2000)
    const bytes = pageBytes * order.length
    const { writer, peer, source, destination, close } = await pair(bytes, { copyThreads })
    const link = await writer.connect(peer)
    const transfer = link.write(scattered(pageBytes, order))
    expect(await transfer.done).toMatchObject({ bytes })
    for (const [from, to] of order.entries()) {
      expect(
        Buffer.compare(
          destination.view(to * pageBytes, pageBytes),
          source.view(from * pageBytes, pageBytes),
        ),
      ).toBe(0)
    }
    await transfer.settled
    await close()
  })
}

test('one run longer than the largest segment is split and arrives whole', async () => {
  const bytes = 5_000_001
  const { writer, peer, source, destination, close } = await pair(bytes, { copyThreads: 2 })
  const transfer = (await writer.connect(peer)).write(scattered(bytes, [0]))
  expect(await transfer.done).toEqual({ bytes, segments: 5 })
  expect(Buffer.compare(destination.view(0, bytes), source.view(0, bytes))).toBe(0)
  await close()
})

test('runs of every length and alignment arrive whole, and nothing beside them is touched', async () => {
  const bytes = 128 * 1024
  const { writer, peer, source, destination, close } = await pair(bytes)
  const link = await writer.connect(peer)
  // Long runs go past the caches, in whole lines: from 32 KiB on.
  const length = fc.oneof(
    fc.integer({ min: 1, max: 300 }),
    fc.integer({ min: 32 * 1024 - 130, max: 32 * 1024 + 130 }),
    fc.integer({ min: 1, max: 100_000 }),
  )
  const at = fc.integer({ min: 0, max: 200 })
  await fc.assert(
    fc.asyncProperty(length, at, at, async (run, from, to) => {
      destination.view(0, bytes).fill(0xee)
      const lane = [0, 0, from, to, run, run, run, 1, run, run]
      const plan = {
        lanes: Float64Array.from(lane),
        groups: Int32Array.of(0, 0, 1),
        blocks: Int32Array.of(0, 1, 0, 1),
      }
      await link.write(plan).done
      const expected = Buffer.alloc(bytes, 0xee)
      expected.set(source.view(from, run), to)
      expect(Buffer.compare(destination.view(0, bytes), expected)).toBe(0)
    }),
    { numRuns: 300 },
  )
  await close()
})

test('a write touches nothing but its own bytes', async () => {
  const { writer, peer, source, destination, close } = await pair(4096)
  destination.view(0, 4096).fill(0xee)
  const link = await writer.connect(peer)
  const plan = {
    lanes: Float64Array.of(0, 0, 1, 5, 100, 200, 7, 3, 10, 20),
    groups: Int32Array.of(2, 3, 2, 9, 1, 1),
    blocks: Int32Array.of(0, 2, 0, 1),
  }
  const expected = Buffer.alloc(4096, 0xee)
  for (const [from, to, count] of [
    [2, 3, 2],
    [9, 1, 1],
  ] as const) {
    for (let p = 0; p < count; p++) {
      for (let k = 0; k < 3; k++) {
        expected.set(source.view(1 + (from + p) * 100 + k * 10, 7), 5 + (to + p) * 200 + k * 20)
      }
    }
  }
  await link.write(plan).done
  expect(Buffer.compare(destination.view(0, 4096), expected)).toBe(0)
  await close()
})

test('several regions of both sides are numbered as registered and as given to connect', async () => {
  const writer = await open()
  const owner = await open()
  const sources = [allocate(4096), allocate(4096)]
  const destinations = [allocate(4096), allocate(8192), allocate(4096)]
  for (const [i, memory] of sources.entries()) {
    memory.view(0, 4096).fill(i + 1)
    expect(await writer.register(memory)).toMatchObject({ id: i, bytes: 4096 })
  }
  const regions = await Promise.all(destinations.map((memory) => owner.register(memory)))
  const link = await writer.connect({
    generation: owner.identity.generation,
    address: owner.address,
    regions: [regions[1], regions[0]].map((region) => region?.descriptor ?? new Uint8Array()),
  })
  const plan = {
    lanes: Float64Array.from(
      [
        [0, 0, 0, 4096, 0, 0, 4096, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 4096, 1, 0, 0],
      ].flat(),
    ),
    groups: Int32Array.of(0, 0, 1),
    blocks: Int32Array.of(0, 1, 0, 2),
  }
  await link.write(plan).done
  expect(destinations.map((memory) => memory.view(memory.bytes - 1, 1)[0])).toEqual([2, 1, 0])
  await Promise.all([writer.close(), owner.close()])
})

test('bytes are in the other process when done resolves', async () => {
  const pageBytes = 4096
  const order = shuffledPages(1024)
  const bytes = pageBytes * order.length
  const owner = await forkOwner(bytes)
  const writer = await open({ copyThreads: 2 })
  const source = allocate(bytes)
  await writer.register(source)
  const link = await writer.connect(owner.peer)
  for (let round = 0; round < 3; round++) {
    const [seed] = fc.sample(fc.uint8Array({ minLength: 64, maxLength: 64 }), 1)
    for (let i = 0; i < bytes; i += 64) source.view(i, 64).set(seed ?? [])
    source.view(0, 4).set([round, 1, 2, 3])
    const landed = Buffer.alloc(bytes)
    for (const [from, to] of order.entries()) {
      landed.set(source.view(from * pageBytes, pageBytes), to * pageBytes)
    }
    const transfer = link.write(scattered(pageBytes, order))
    await transfer.done
    expect(await owner.ask('digest')).toBe(createHash('sha256').update(landed).digest('hex'))
  }
  await writer.close()
  await owner.kill()
})

test('many links write to many owners at once', async () => {
  const pairs = await Promise.all(Array.from({ length: 4 }, () => pair(1 << 20)))
  const transfers = await Promise.all(
    pairs.flatMap(({ writer }) =>
      pairs.map(async ({ peer }) => {
        const link = await writer.connect(peer)
        return link.write(scattered(1024, shuffledPages(1024)))
      }),
    ),
  )
  for (const transfer of transfers) expect(await transfer.done).toMatchObject({ bytes: 1 << 20 })
  await Promise.all(pairs.map(({ close }) => close()))
})
