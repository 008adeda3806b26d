/** Every shape of plan that a layout makes: each byte where the contract says, and no other byte anywhere. */
import type { TransferPlan } from '@kvx/contract'
import { pattern } from '../kit/pattern.ts'
import { bytesOf, carryOut, lane, planOf, reversed, whole, type Group } from '../kit/plans.ts'
import { must } from '../kit/promises.ts'
import type { Pair, World } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'

const KiB = 1024
const MiB = KiB * KiB
const marked = 0xa5

/** Carries plans out, one after the other, and compares the whole destination with what they make of it. */
async function mustCarryOut(
  { writer, owner, link }: Pair,
  plans: readonly TransferPlan[],
): Promise<void> {
  const sources = writer.memories.map(({ bytes }, at) => pattern(at + 1, bytes))
  const destinations = owner.memories.map(({ bytes }) => Buffer.alloc(bytes, marked))
  await Promise.all([
    ...writer.memories.map((_, at) => writer.fill(at + 1, at)),
    ...owner.memories.map((_, at) => owner.mark(marked, at)),
  ])
  for (const plan of plans) {
    const { bytes, segments } = await link.move(plan)
    carryOut(plan, sources, destinations)
    must(
      bytes === bytesOf(plan),
      'report',
      `It reports ${bytes} bytes of a plan that moves ${bytesOf(plan)}.`,
    )
    must(
      Number.isSafeInteger(segments) && segments >= (bytes > 0 ? 1 : 0),
      'report',
      `It reports ${segments} segments.`,
    )
  }
  for (const [at, expected] of destinations.entries())
    await owner.mustHold(expected, 'plan', `Region ${at} of the target`, at)
}

const shape = (name: string, bytes: number, plan: TransferPlan) =>
  check(name, async (world) => mustCarryOut(await world.pair(bytes), [plan]))

const scattered = (pages: number, step: number): Group[] =>
  Array.from({ length: pages }, (_, i): Group => [i, (i * step) % pages, 1])

/** K and V of two layers, one behind the other in one region. */
const layers = (pages: number, pageBytes: number) =>
  [0, 1, 2, 3].map((i) =>
    lane(pageBytes, {
      sourceBase: i * pages * pageBytes,
      destinationBase: (3 - i) * pages * pageBytes,
    }),
  )

/** Plans of any form: each lane has a part of its own of the destination. The same for the same seed. */
function anyPlan(seed: number, bytes: number): TransferPlan {
  let state = seed
  const below = (most: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % most
  }
  const laneCount = 1 + below(3)
  const room = Math.floor(bytes / laneCount)
  const pages = 1 + below(12)
  const lanes = Array.from({ length: laneCount }, (_, i) => {
    const runs = 1 + below(3)
    const most = Math.floor(room / pages / runs)
    const runBytes = 1 + below(Math.min(most - 1, below(2) === 0 ? 9 : 5000))
    const [sourceStride, destinationStride] = [
      runBytes + below(Math.min(7, most - runBytes)),
      runBytes + below(Math.min(7, most - runBytes)),
    ]
    return lane(runBytes, {
      ...{ runs, sourceStride, destinationStride },
      ...{ sourceBase: i * room, destinationBase: i * room },
      ...{ sourcePageBytes: runs * sourceStride, destinationPageBytes: runs * destinationStride },
    })
  })
  const cut = below(laneCount + 1)
  const first = scattered(pages, 1)
  const second: Group[] = [[0, pages - 1, 1]]
  return planOf(
    lanes,
    [...first, ...second],
    [
      [0, first.length, 0, cut],
      [first.length, first.length + 1, cut, laneCount],
    ],
  )
}

async function severalRegions(world: World): Promise<Pair> {
  const [writer, owner] = await Promise.all([
    world.host('writer', [64 * KiB, 96 * KiB]),
    world.host('owner', [64 * KiB, 128 * KiB, 32 * KiB]),
  ])
  return { writer, owner, link: await writer.connect(owner.peer) }
}

export const plans: Suite = {
  name: 'plans',
  checks: [
    shape('one run', MiB, whole(MiB)),
    shape('one byte', 4 * KiB, planOf([lane(1)], [[77, 99, 1]])),
    shape('consecutive pages', MiB, planOf([lane(4 * KiB)], [[3, 100, 100]])),
    shape('scattered pages', MiB, planOf([lane(4 * KiB)], scattered(256, 101))),
    shape('pages of an odd size', MiB, planOf([lane(3001)], scattered(300, 7))),
    shape('several layers, K and V, of scattered pages', MiB, {
      ...planOf(layers(16, 4 * KiB), scattered(16, 5)),
    }),
    shape(
      'the heads of one rank, out of pages with all heads',
      MiB,
      planOf(
        [
          lane(16 * KiB, {
            ...{ runBytes: 512, runs: 16, sourceStride: 1 * KiB, destinationStride: 512 },
            ...{ sourceBase: 512, destinationPageBytes: 8 * KiB },
          }),
        ],
        scattered(32, 11),
      ),
    ),
    shape(
      'the heads of one rank, into pages with all heads',
      MiB,
      planOf(
        [
          lane(8 * KiB, {
            ...{ runBytes: 512, runs: 16, sourceStride: 512, destinationStride: 1 * KiB },
            ...{ destinationBase: 512, destinationPageBytes: 16 * KiB },
          }),
        ],
        scattered(32, 11),
      ),
    ),
    shape(
      'the last lanes of a pipeline stage, at a base of their own',
      MiB,
      planOf([lane(4 * KiB, { sourceBase: 12_345, destinationBase: 54_321 })], [[1, 2, 40]]),
    ),
    shape(
      'components with pages of their own: each block has its lanes and its groups',
      MiB,
      planOf(
        [
          lane(4 * KiB),
          lane(4 * KiB, { sourceBase: 256 * KiB, destinationBase: 256 * KiB }),
          lane(10 * KiB, { sourceBase: 512 * KiB, destinationBase: 512 * KiB }),
        ],
        [
          [0, 9, 3],
          [5, 1, 2],
          [2, 3, 1],
        ],
        [
          [0, 2, 0, 2],
          [2, 3, 2, 3],
        ],
      ),
    ),
    shape(
      'the same pages twice: lanes of one block in the order of the plan',
      64 * KiB,
      planOf(
        [lane(4 * KiB)],
        [[0, 0, 4]],
        [
          [0, 1, 0, 1],
          [0, 1, 0, 1],
        ],
      ),
    ),
    check('nothing: no block, a block without groups, a group of no page', async (world) => {
      await mustCarryOut(await world.pair(4 * KiB), [
        planOf([], [], []),
        planOf([lane(64)], [], [[0, 0, 0, 1]]),
        planOf([lane(64)], [[0, 0, 0]]),
        planOf([lane(64)], [[0, 0, 1]], [[0, 1, 0, 0]]),
      ])
    }),
    check('several regions on both sides', async (world) => {
      const plan = planOf(
        [
          lane(4 * KiB, { from: 1, to: 0 }),
          lane(4 * KiB, { from: 0, to: 1, destinationBase: 64 * KiB }),
          lane(4 * KiB, { from: 1, to: 2, sourceBase: 64 * KiB }),
        ],
        scattered(8, 3),
      )
      await mustCarryOut(await severalRegions(world), [plan])
    }),
    check('regions of the target are numbered as in the list given to connect', async (world) => {
      const { writer, owner } = await severalRegions(world)
      const [first, second] = owner.regions
      const link = await writer.connect({
        ...owner.peer,
        regions: [second!.descriptor, first!.descriptor],
      })
      await Promise.all([owner.mark(marked, 0), owner.mark(marked, 1), writer.fill(1, 0)])
      await link.move(planOf([lane(64 * KiB, { to: 0, destinationBase: 64 * KiB })], [[0, 0, 1]]))
      const expected = Buffer.alloc(128 * KiB, marked)
      expected.set(pattern(1, 64 * KiB), 64 * KiB)
      await owner.mustHold(expected, 'regionNumbers', 'Region 1 of the target, given first', 1)
      const untouched = Buffer.alloc(64 * KiB, marked)
      await owner.mustHold(untouched, 'nothingElse', 'Region 0 of the target, given second', 0)
    }),
    check('a run that is longer than the largest piece of the engine', async (world) => {
      const { maxSegmentBytes } = world.facts.capabilities
      const bytes = Math.min(Math.max(5 * MiB, 2 * maxSegmentBytes), 80 * MiB) + 1
      await mustCarryOut(await world.pair(bytes), [whole(bytes)])
    }),
    check('100,000 strips of 16 bytes', async (world) => {
      const strips = planOf(
        [lane(64 * KiB, { runBytes: 16, runs: 1000, sourceStride: 48, destinationStride: 64 })],
        Array.from({ length: 100 }, (_, i): Group => [i, 99 - i, 1]),
      )
      await mustCarryOut(await world.pair(100 * 64 * KiB), [strips])
    }),
    check('5,000 pages that cannot be merged', async (world) => {
      await mustCarryOut(await world.pair(5000 * 512), [reversed(512, 5000)])
    }),
    check('a hundred plans of any form', async (world) => {
      const bytes = 64 * KiB
      const any = Array.from({ length: 100 }, (_, seed) => anyPlan(seed + 1, bytes))
      await mustCarryOut(await world.pair(bytes), any)
    }),
  ],
}
