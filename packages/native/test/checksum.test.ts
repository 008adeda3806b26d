/** Checksums of pages: are they right, and whom do they hold up? */
import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { crc32 } from 'node:zlib'
import type { TransferEngine } from '@kvx/contract'
import { allocate, type AllocatedMemory } from '@kvx/native'
import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { loadFaulty, open } from './faulty.ts'

const size = 1 << 16
/** Long enough that the loop turns many times before its sum is known. */
const large = 512 * 2 ** 20

let engine: TransferEngine
let memories: AllocatedMemory[]

beforeAll(async () => {
  engine = await open(loadFaulty())
  memories = [allocate(size), allocate(size)]
  for (const [i, memory] of memories.entries()) {
    memory.view(0, size).set(Uint8Array.from({ length: size }, (_, k) => (k * (i + 7) * 31) % 251))
    await engine.register(memory)
  }
})

interface Lane {
  region: number
  base: number
  pageBytes: number
  runBytes: number
  runs: number
  stride: number
}

const rows = (lanes: readonly Lane[]) =>
  Float64Array.from(
    lanes.flatMap(({ region, base, pageBytes, runBytes, runs, stride }) => [
      ...[region, base, pageBytes],
      ...[runBytes, runs, stride],
    ]),
  )

/** Of each page, byte by byte. */
const reference = (lanes: readonly Lane[], pages: readonly number[]) =>
  Uint32Array.from(pages, (page) => {
    const bytes = lanes.flatMap(({ region, base, pageBytes, runBytes, runs, stride }) =>
      Array.from({ length: runs }, (_, k) =>
        Array.from(memories[region]!.view(base + page * pageBytes + k * stride, runBytes)),
      ).flat(),
    )
    return crc32(Buffer.from(bytes))
  })

const lane: fc.Arbitrary<Lane> = fc.record({
  region: fc.nat(1),
  base: fc.nat(4_000),
  pageBytes: fc.nat(2_000),
  runBytes: fc.nat(300),
  runs: fc.nat(4),
  stride: fc.nat(400),
})

test('the sums are those of every run of every lane, page by page', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(lane, { maxLength: 5 }),
      fc.array(fc.nat(20), { maxLength: 8 }),
      async (lanes, pages) => {
        const sums = await engine.checksum({ lanes: rows(lanes), pages: Int32Array.from(pages) })
        expect(sums).toEqual(reference(lanes, pages))
      },
    ),
  )
})

const whole: Lane = { region: 0, base: 0, pageBytes: 64, runBytes: 64, runs: 1, stride: 0 }

test.each([
  ['a region that is not registered', { region: 2 }, [0], 'region 2 is not registered'],
  ['a page beyond its region', {}, [0, size / 64], 'reaches outside region 0'],
  ['a run beyond its region', { runs: 2, stride: size - 63 }, [0], 'reaches outside region 0'],
  ['products beyond 64 bits', { pageBytes: 2 ** 53, runs: 2 ** 53 }, [2 ** 31 - 1], 'outside'],
  ['a negative page', {}, [-1], 'must not be negative'],
  ['half a byte', { runBytes: 1.5 }, [0], 'must be an integer'],
])('%s is refused, and nothing is read', async (_, change, pages, why) => {
  const job = { lanes: rows([{ ...whole, ...change }]), pages: Int32Array.from(pages) }
  await expect(engine.checksum(job)).rejects.toMatchObject({
    code: 'ERR_KVX_PLAN_INVALID',
    message: expect.stringContaining(why) as string,
  })
})

test('rows that are cut off are refused', async () => {
  const job = { lanes: rows([whole]).subarray(0, 5), pages: Int32Array.of(0) }
  await expect(engine.checksum(job)).rejects.toMatchObject({ code: 'ERR_KVX_PLAN_INVALID' })
})

async function withLarge() {
  const one = await open(loadFaulty())
  const memory = allocate(large)
  const region = await one.register(memory)
  const job = {
    lanes: rows([{ ...whole, pageBytes: large, runBytes: large }]),
    pages: Int32Array.of(0),
  }
  return { engine: one, memory, region, job }
}

test('the event loop goes on while a sum is computed', async () => {
  const { engine, memory, job } = await withLarge()
  let turns = 0
  const turn = (): NodeJS.Immediate =>
    setImmediate(() => {
      turns++
      next = turn()
    })
  let next = turn()
  const sum = engine.checksum(job)
  await sum
  clearImmediate(next)
  expect(await sum).toHaveLength(1)
  // On this thread it would be one turn, or two.
  expect(turns).toBeGreaterThan(20)
  await engine.close()
  memory.free()
})

test.each(['deregister', 'close'] as const)(
  '%s waits for the sum that is computed, and refuses those that wait for their turn',
  async (how) => {
    const { engine, memory, region, job } = await withLarge()
    const ends: string[] = []
    const first = engine.checksum(job).then((sums) => {
      ends.push('first')
      return sums
    })
    const second = engine.checksum(job).catch((error: unknown) => error)
    // The first is being computed now.
    await new Promise((resolve) => setImmediate(resolve))
    await (how === 'close' ? engine.close() : region.deregister())
    ends.push(how)
    expect(ends).toEqual(['first', how])
    expect(await first).toHaveLength(1)
    expect(await second).toMatchObject({
      code: how === 'close' ? 'ERR_KVX_CLOSED' : 'ERR_KVX_PLAN_INVALID',
    })
    memory.free()
    await engine.close()
    await expect(engine.checksum(job)).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
  },
)

test('a thread of Node that ends while its sum is computed ends cleanly', async () => {
  const worker = new Worker(new URL('./children/checksum.mjs', import.meta.url), {
    workerData: { bytes: large },
  })
  await once(worker, 'message')
  expect(await worker.terminate()).toBe(1)
})
