import { createHash, randomFillSync } from 'node:crypto'
import type { TransferPlan } from '@kvx/contract'
import { allocate } from '@kvx/native'
import * as fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { installMooncake, openEngine, Peer } from './peer.ts'

beforeAll(installMooncake, 300_000)

const size = 4 * 2 ** 20

interface Lane {
  from: number
  to: number
  pageBytes: number
  run: number
  runs: number
}
interface Copy {
  from: number
  to: number
  bytes: number
}

/** Two tensors of random page and run sizes side by side, and random pages of them. */
const plans = fc
  .record({
    pageBytes: fc.tuple(fc.integer({ min: 1, max: 40_000 }), fc.integer({ min: 1, max: 40_000 })),
    runs: fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 })),
    pages: fc.integer({ min: 1, max: 40 }),
    groups: fc.array(
      fc.record({
        source: fc.nat(39),
        destination: fc.nat(39),
        count: fc.integer({ min: 1, max: 8 }),
      }),
      { minLength: 1, maxLength: 12 },
    ),
  })
  .map(({ pageBytes, runs, pages, groups }) => {
    const lanes = pageBytes.map((bytes, k): Lane => {
      const perPage = Math.min(runs[k] ?? 1, bytes)
      return {
        from: (k * size) / 2,
        to: (k * size) / 2,
        pageBytes: bytes,
        runs: perPage,
        run: Math.ceil(bytes / perPage / 2),
      }
    })
    // Destination pages that two groups share would make the outcome depend on their order.
    const taken = new Set<number>()
    const kept = groups.flatMap(({ source, destination, count }) => {
      const fits = Math.min(count, pages - Math.max(source, destination))
      const targets = Array.from({ length: fits }, (_, p) => destination + p)
      if (fits < 1 || targets.some((page) => taken.has(page))) return []
      for (const page of targets) taken.add(page)
      return [{ source, destination, count: fits }]
    })
    return { lanes, groups: kept }
  })
  .filter(({ groups }) => groups.length > 0)

function encode({
  lanes,
  groups,
}: {
  lanes: Lane[]
  groups: { source: number; destination: number; count: number }[]
}): TransferPlan {
  return {
    lanes: Float64Array.from(
      lanes.flatMap(({ from, to, pageBytes, run, runs }) => {
        const stride = Math.floor(pageBytes / runs)
        return [0, 0, from, to, pageBytes, pageBytes, run, runs, stride, stride]
      }),
    ),
    groups: Int32Array.from(
      groups.flatMap(({ source, destination, count }) => [source, destination, count]),
    ),
    blocks: Int32Array.from([0, groups.length, 0, lanes.length]),
  }
}

/** What the plan means, byte run by byte run. */
function copies({ lanes, groups }: Parameters<typeof encode>[0]): Copy[] {
  const list: Copy[] = []
  for (const lane of lanes)
    for (const { source, destination, count } of groups)
      for (let p = 0; p < count; p++)
        for (let k = 0; k < lane.runs; k++) {
          const within = k * Math.floor(lane.pageBytes / lane.runs)
          list.push({
            from: lane.from + (source + p) * lane.pageBytes + within,
            to: lane.to + (destination + p) * lane.pageBytes + within,
            bytes: lane.run,
          })
        }
  return list
}

test('every byte of 100 random plans is there for the other process as soon as done resolves', async () => {
  await using peer = new Peer(size)
  const target = await peer.open()
  const engine = await openEngine()
  const memory = allocate(size)
  const source = memory.view(0, size)
  await engine.register(memory)
  const link = await engine.connect(target)
  const expected = Buffer.alloc(size)

  await fc.assert(
    fc.asyncProperty(plans, async (plan) => {
      randomFillSync(source)
      const list = copies(plan)
      for (const { from, to, bytes } of list) expected.set(source.subarray(from, from + bytes), to)
      const { done, settled } = link.write(encode(plan), { deadlineMs: 10_000 })
      const report = await done
      expect(await peer.ask('digest')).toBe(createHash('sha256').update(expected).digest('hex'))
      expect(report.bytes).toBe(list.reduce((sum, { bytes }) => sum + bytes, 0))
      await settled
    }),
    { numRuns: 100 },
  )
  await link.close()
  await engine.close()
})

test('regions of the writer are told apart by their number', async () => {
  await using peer = new Peer(size)
  const target = await peer.open()
  const engine = await openEngine()
  const [first, second] = [allocate(size), allocate(size)]
  await engine.register(first)
  await engine.register(second)
  const link = await engine.connect(target)
  const page = (region: number, from: number, to: number): TransferPlan => ({
    lanes: Float64Array.from([region, 0, from, to, 4096, 4096, 4096, 1, 0, 0]),
    groups: Int32Array.from([0, 0, 1]),
    blocks: Int32Array.from([0, 1, 0, 1]),
  })
  first.view(0, 4096).fill(1)
  second.view(8192, 4096).fill(2)
  await Promise.all([link.write(page(0, 0, 4096)).done, link.write(page(1, 8192, 0)).done])
  const read = Buffer.from(
    (await peer.ask('read', { offset: 0, length: 8192 })) as string,
    'base64',
  )
  expect([read[0], read[4095], read[4096], read[8191]]).toEqual([2, 2, 1, 1])
  await engine.close()
})
