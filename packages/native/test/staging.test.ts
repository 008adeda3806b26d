/** Staging memory: does what is gathered from some pages arrive in others as a write of the plan would move it? */
import { eachCopy, type Staging, type TransferEngine, type TransferPlan } from '@kvx/contract'
import { allocate, type AllocatedMemory } from '@kvx/native'
import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { loadFaulty, open } from './faulty.ts'

const size = 4_096
const stagingBytes = 8_192
let engine: TransferEngine
let staging: Staging
let memories: AllocatedMemory[]

beforeAll(async () => {
  engine = await open(loadFaulty())
  memories = [allocate(size), allocate(size)]
  for (const memory of memories) await engine.register(memory)
  staging = await engine.openStaging!(stagingBytes)
})

test('staging memory is the next region of its engine', () => {
  expect([staging.region.id, staging.region.bytes]).toEqual([2, stagingBytes])
})

const natural = (max: number) => fc.integer({ min: 0, max })
const lane = fc.tuple(
  ...[natural(1), natural(1), natural(99), natural(99), natural(64), natural(64)],
  ...[natural(40), natural(4), natural(64), natural(64)],
)
const groups = fc.array(fc.tuple(natural(9), natural(9), natural(4)), {
  minLength: 1,
  maxLength: 5,
})
/** Of all lanes and groups. */
const plans = fc
  .record({ lanes: fc.array(lane, { minLength: 1, maxLength: 4 }), groups })
  .map((drawn): TransferPlan => ({
    lanes: Float64Array.from(drawn.lanes.flat()),
    groups: Int32Array.from(drawn.groups.flat()),
    blocks: Int32Array.of(0, drawn.groups.length, 0, drawn.lanes.length),
  }))

function bytesOf(memory: AllocatedMemory): Buffer {
  return Buffer.from(memory.view(0, size))
}

test('runs lie in staging memory in the order of the plan, and go where it says', async () => {
  await fc.assert(
    fc.asyncProperty(plans, natural(1_000), async (plan, offset) => {
      for (const [i, memory] of memories.entries())
        memory.view(0, size).forEach((_, at, all) => (all[at] = at * 31 + i * 7 + (at >> 8)))
      const before = memories.map(bytesOf)
      const expected = memories.map(bytesOf)
      let moved = 0
      eachCopy(plan, (from, source, to, destination, bytes) => {
        before[from]!.copy(expected[to]!, destination, source, source + bytes)
        moved += bytes
      })
      expect(await staging.gather(plan, offset)).toBe(moved)
      expect(await staging.scatter(plan, offset)).toBe(moved)
      expect(memories.map(bytesOf).every((bytes, i) => bytes.equals(expected[i]!))).toBe(true)
    }),
    { numRuns: 300 },
  )
})

/** One lane of one page. */
const one = (change: Record<number, number> = {}, group = [0, 0, 1]): TransferPlan => {
  const row = [0, 0, 0, 0, 64, 64, 32, 2, 32, 32]
  for (const [i, value] of Object.entries(change)) row[Number(i)] = value
  return {
    lanes: Float64Array.from(row),
    groups: Int32Array.from(group),
    blocks: Int32Array.of(0, 1, 0, 1),
  }
}

test.each([
  ['a source region that there is not', 'gather', one({ 0: 9 }), 0],
  ['a destination region that there is not', 'scatter', one({ 1: 9 }), 0],
  ['bytes behind the end of a source', 'gather', one({ 2: size - 63 }), 0],
  ['bytes behind the end of a destination', 'scatter', one({ 3: size - 63 }), 0],
  ['pages behind the end', 'gather', one({}, [64, 0, 1]), 0],
  ['a negative page', 'scatter', one({}, [0, -1, 1]), 0],
  ['more than lies behind the offset', 'gather', one(), stagingBytes - 63],
  ['more runs than fit', 'gather', one({ 7: 2 ** 52, 8: 0 }), 0],
  ['more pages than fit', 'scatter', one({ 5: 0 }, [0, 0, 2 ** 31 - 1]), 0],
  ['an offset outside', 'gather', one(), stagingBytes + 1],
  ['a negative offset', 'scatter', one(), -1],
  ['half an offset', 'gather', one(), 0.5],
  ['no number', 'gather', one({ 6: Number.NaN }), 0],
] as const)(
  'a plan that names %s is refused before anything is copied',
  async (_name, call, plan, offset) => {
    const before = memories.map(bytesOf)
    await expect(staging[call](plan, offset)).rejects.toMatchObject({
      code: 'ERR_KVX_PLAN_INVALID',
    })
    expect(memories.map(bytesOf).every((bytes, i) => bytes.equals(before[i]!))).toBe(true)
  },
)

test('what the other side of a plan says does not matter to a copy', async () => {
  expect(await staging.gather(one({ 1: 9, 3: 2 ** 50, 5: 2 ** 50 }, [0, 2 ** 30, 1]), 0)).toBe(64)
  expect(await staging.scatter(one({ 0: 9, 2: 2 ** 50, 4: 2 ** 50 }, [2 ** 30, 0, 1]), 0)).toBe(64)
})

test('an engine that closes waits for its copies, and its staging memory is gone afterwards', async () => {
  const other = await open(loadFaulty())
  const memory = allocate(size)
  await other.register(memory)
  const its = await other.openStaging!(stagingBytes)
  const copies = Array.from({ length: 20 }, () => its.gather(one(), 0))
  const ends: string[] = []
  void Promise.allSettled(copies).then(() => ends.push('copies'))
  await other.close()
  ends.push('closed')
  expect(ends).toEqual(['copies', 'closed'])
  await expect(its.gather(one(), 0)).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' })
  memory.free()
})
