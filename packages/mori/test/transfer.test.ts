import { createHash, randomBytes } from 'node:crypto'
import type { TransferPlan } from '@kvx/contract'
import { allocate } from '@kvx/native'
import fc from 'fast-check'
import { expect, onTestFinished, test } from 'vitest'
import { control, forkPeer, open, pages, useMori } from './support/mori.ts'

useMori()

const megabyte = 1 << 20
const regionBytes = 4 * megabyte

interface Lane {
  source: number
  destination: number
  pageBytes: number
  runs: number
  gap: number
}

/** Pages of several tensors in two regions on each side, scattered or consecutive. */
const plans: fc.Arbitrary<TransferPlan> = fc
  .record({
    lanes: fc.array(
      fc.record({
        source: fc.nat(1),
        destination: fc.nat(1),
        pageBytes: fc.constantFrom(48, 512, 4096, 16_384),
        runs: fc.constantFrom(1, 1, 2, 4),
        gap: fc.constantFrom(0, 0, 16),
      }),
      { minLength: 1, maxLength: 6 },
    ),
    moves: fc.uniqueArray(fc.tuple(fc.nat(31), fc.nat(31)), {
      minLength: 1,
      maxLength: 24,
      selector: ([, to]) => to,
    }),
    consecutive: fc.boolean(),
  })
  .map(({ lanes, moves, consecutive }) => ({
    lanes: Float64Array.from(lanes.flatMap((lane: Lane, i) => row(lane, i))),
    groups: Int32Array.from(
      consecutive ? [0, 32 - moves.length, moves.length] : moves.flatMap((move) => [...move, 1]),
    ),
    blocks: Int32Array.of(0, consecutive ? 1 : moves.length, 0, lanes.length),
  }))

/** Each lane has 512 KiB of its own on both sides: 32 pages of at most 16 KiB. */
function row({ source, destination, pageBytes, runs, gap }: Lane, i: number): number[] {
  const stride = pageBytes / runs
  const base = i * 524_288
  return [
    source,
    destination,
    base,
    base,
    pageBytes,
    pageBytes,
    stride - Math.min(gap, stride / 2),
    runs,
    stride,
    stride,
  ]
}

/** The contract's sentence on plans, run by run. */
function copy({ lanes, groups, blocks }: TransferPlan, from: Uint8Array[], to: Uint8Array[]): void {
  const [firstGroup = 0, endGroup = 0, firstLane = 0, endLane = 0] = blocks
  for (let l = firstLane; l < endLane; l++) {
    const [
      s = 0,
      d = 0,
      sBase = 0,
      dBase = 0,
      sPage = 0,
      dPage = 0,
      run = 0,
      runs = 0,
      sStride = 0,
      dStride = 0,
    ] = lanes.subarray(l * 10, l * 10 + 10)
    for (let g = firstGroup; g < endGroup; g++) {
      const [source = 0, destination = 0, count = 0] = groups.subarray(g * 3, g * 3 + 3)
      for (let p = 0; p < count; p++) {
        for (let k = 0; k < runs; k++) {
          const at = sBase + (source + p) * sPage + k * sStride
          to[d]?.set(
            from[s]?.subarray(at, at + run) ?? [],
            dBase + (destination + p) * dPage + k * dStride,
          )
        }
      }
    }
  }
}

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

async function connected(options: Parameters<typeof open>[0] = {}) {
  const peer = await forkPeer([regionBytes, regionBytes])
  const engine = await open(options)
  onTestFinished(() => engine.close())
  const memories = [allocate(regionBytes), allocate(regionBytes)]
  for (const memory of memories) {
    memory.view(0, regionBytes).set(randomBytes(regionBytes))
    await engine.register(memory)
  }
  const link = await engine.connect(peer.address)
  const source = memories.map((memory) => memory.view(0, regionBytes))
  return { peer, engine, link, source, expected: source.map(() => new Uint8Array(regionBytes)) }
}

test(
  'the bytes of 100 random plans are at the target at once after done',
  { timeout: 120_000 },
  async () => {
    const { peer, link, source, expected } = await connected()
    await fc.assert(
      fc.asyncProperty(plans, async (plan) => {
        for (const bytes of source)
          bytes.set(randomBytes(64 * 1024), Math.floor(Math.random() * 3 * megabyte))
        const { done, settled } = link.write(plan)
        await done
        const arrived = await peer.ask('digests')
        copy(plan, source, expected)
        expect(arrived).toEqual(expected.map(digest))
        await settled
      }),
      { numRuns: 100 },
    )
  },
)

test('transfers that run at the same time all arrive', { timeout: 60_000 }, async () => {
  const { peer, link, source, expected } = await connected({ numWorkers: 3 })
  const plans = Array.from({ length: 64 }, (_, i) => pages(megabyte / 32, 1, i))
  const reports = await Promise.all(plans.map((plan) => link.write(plan).done))
  for (const plan of plans) copy(plan, source, expected)
  expect(await peer.ask('digests')).toEqual(expected.map(digest))
  expect(reports.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(2 * megabyte)
})

test('a merged run longer than the device can send is cut again', { timeout: 60_000 }, async () => {
  process.env.KVX_FAKE_VERBS_MAX_MESSAGE = String(64 * 1024)
  onTestFinished(() => {
    delete process.env.KVX_FAKE_VERBS_MAX_MESSAGE
  })
  const { peer, engine, link, source, expected } = await connected({ qpPerTransfer: 1 })
  expect(engine.capabilities.maxSegmentBytes).toBe(64 * 1024)
  const plan = pages(16 * 1024, 256)
  await link.write(plan).done
  copy(plan, source, expected)
  expect(await peer.ask('digests')).toEqual(expected.map(digest))
})

test(
  'a link has as many queue pairs as asked for, and closing the engine ends them all',
  { timeout: 60_000 },
  async () => {
    const engine = await open({ qpPerTransfer: 6 })
    await engine.register(allocate(regionBytes))
    const before = control.get('queuePairs')
    await engine.connect((await forkPeer([regionBytes])).address)
    expect(control.get('queuePairs') - before).toBe(6)
    await engine.close()
    expect(control.get('queuePairs')).toBe(0)
  },
)

test('a deregistered region of the target lets nothing in', { timeout: 60_000 }, async () => {
  const { peer, link } = await connected()
  await link.write(pages(4096, 1)).done
  await peer.ask('deregister', { region: 0 })
  await peer.ask('fill', { value: 7 })
  const { done, settled } = link.write(pages(4096, 8))
  await expect(done).rejects.toMatchObject({ code: 'ERR_KVX_TRANSFER_FAILED' })
  await settled
  const bytes = Buffer.from((await peer.ask('read', { bytes: 8 * 4096 })) as string, 'base64')
  expect(bytes.every((byte) => byte === 7)).toBe(true)
})

test(
  'after an error the link is dead, and a new one to the same generation works',
  { timeout: 60_000 },
  async () => {
    const { peer, engine, link } = await connected()
    await peer.ask('deregister', { region: 0 })
    await expect(link.write(pages(4096, 1)).done).rejects.toMatchObject({
      code: 'ERR_KVX_TRANSFER_FAILED',
    })
    await expect(link.write(pages(4096, 1)).done).rejects.toMatchObject({
      code: 'ERR_KVX_PEER_LOST',
    })
    const again = await engine.connect({ ...peer.address, regions: peer.address.regions.slice(1) })
    await expect(again.write(pages(4096, 1)).done).resolves.toMatchObject({ bytes: 4096 })
  },
)

test('several links to one peer are of no concern to each other', { timeout: 60_000 }, async () => {
  const { peer, engine, link } = await connected()
  const [second, third] = await Promise.all([
    engine.connect(peer.address),
    engine.connect(peer.address),
  ])
  await second.close()
  const reports = await Promise.all([
    link.write(pages(4096, 2)).done,
    third.write(pages(4096, 2, 8)).done,
  ])
  expect(reports.map(({ bytes }) => bytes)).toEqual([8192, 8192])
})
