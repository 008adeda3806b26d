/** Every way to reach outside of what is registered. */
import type { TransferPlan } from '@kvx/contract'
import { lane, planOf, type Group, type LaneFields } from '../kit/plans.ts'
import type { World } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'

const bytes = 64 * 1024
const page = 4096
const marked = 0x3c

const one: Group = [0, 0, 1]
const laneOf = (fields: LaneFields, group: Group = one): TransferPlan =>
  planOf([lane(page, fields)], [group])

/** Every plan comes behind a page that is right, and must not move that one either. */
function behindGood(plan: TransferPlan): TransferPlan {
  const good = planOf([lane(page)], [one])
  const [lanes, groups] = [1, 1]
  const blocks = Int32Array.from(plan.blocks)
  for (let i = 0; i < blocks.length; i++) blocks[i] = blocks[i]! + (i % 4 < 2 ? groups : lanes)
  return {
    lanes: Float64Array.from([...good.lanes, ...plan.lanes]),
    groups: Int32Array.from([...good.groups, ...plan.groups]),
    blocks: Int32Array.from([...good.blocks, ...blocks]),
  }
}

async function mustRefuse(
  world: World,
  plans: readonly (readonly [what: string, plan: TransferPlan])[],
): Promise<void> {
  const { owner, link } = await world.pair(bytes)
  await owner.mark(marked)
  for (const [what, plan] of plans) {
    const transfer = await link.write(plan)
    await transfer.mustFail(['ERR_KVX_PLAN_INVALID'], 'refused', `It was given ${what}`)
    await transfer.mustSettle()
  }
  await owner.mustStay(marked, 100, 'refused', 'After all of these plans the target')
  const good = await link.write(planOf([lane(page)], [one]))
  await good.mustSucceed()
}

const refuses = (name: string, plans: readonly (readonly [string, TransferPlan])[]) =>
  check(name, (world) =>
    mustRefuse(
      world,
      plans.map(([what, plan]) => [what, behindGood(plan)]),
    ),
  )

const large = 2 ** 53
const fields = [
  ...(['from', 'to', 'sourceBase', 'destinationBase', 'sourcePageBytes'] as const),
  ...(['destinationPageBytes', 'runBytes', 'runs', 'sourceStride', 'destinationStride'] as const),
]

export const bounds: Suite = {
  name: 'bounds',
  checks: [
    refuses('one byte too far, on either side', [
      ['a source that ends one byte too far', laneOf({ sourceBase: bytes - page + 1 })],
      ['a destination that ends one byte too far', laneOf({ destinationBase: bytes - page + 1 })],
      ['a source page too many', laneOf({}, [15, 0, 2])],
      ['a destination page too many', laneOf({}, [0, 15, 2])],
      ['a page far outside', laneOf({}, [0, 2 ** 31 - 1, 1])],
      [
        'a run too many at the source',
        laneOf({ runBytes: 1024, runs: 65, sourceStride: 1024, destinationStride: 0 }),
      ],
      [
        'a run too many at the destination',
        laneOf({ runBytes: 1024, runs: 65, sourceStride: 0, destinationStride: 1024 }),
      ],
      ['pages that are too far apart', laneOf({ destinationPageBytes: bytes }, [0, 0, 2])],
    ]),
    refuses('numbers that are no non-negative integers', [
      ...fields.flatMap((field) =>
        [-1, 0.5, NaN, Infinity].map(
          (value) => [`${field} ${value}`, laneOf({ [field]: value })] as const,
        ),
      ),
      ['a negative source page', laneOf({ sourceBase: page }, [-1, 0, 1])],
      ['a negative destination page', laneOf({ destinationBase: page }, [0, -1, 1])],
      ['a negative count', laneOf({}, [0, 0, -1])],
    ]),
    refuses('sums that overflow', [
      ['a destination base of 2^53', laneOf({ destinationBase: large })],
      ['a source base of 2^53', laneOf({ sourceBase: large })],
      ['a destination base of 2^64 - 4096', laneOf({ destinationBase: 2 ** 64 - page })],
      ['pages whose product is 2^64', laneOf({ destinationPageBytes: 2 ** 34 }, [0, 2 ** 30, 1])],
      [
        'pages whose product passes 2^64',
        laneOf({ destinationPageBytes: large }, [0, 2 ** 31 - 1, 1]),
      ],
      [
        'source pages whose product passes 2^64',
        laneOf({ sourcePageBytes: large }, [2 ** 31 - 1, 0, 1]),
      ],
      [
        'strides whose product passes 2^64',
        laneOf({ runBytes: 1, runs: large, destinationStride: large, sourceStride: 0 }),
      ],
      [
        'runs whose number passes 2^64',
        laneOf({ runBytes: 1, runs: large, destinationStride: 1, sourceStride: 0 }, [
          0,
          0,
          2 ** 31 - 1,
        ]),
      ],
      ['a run of 2^53 bytes', laneOf({ runBytes: large })],
    ]),
    refuses('regions that are not there', [
      ['source region 1 of 1', laneOf({ from: 1 })],
      ['destination region 1 of 1', laneOf({ to: 1 })],
      ['source region 2^32', laneOf({ from: 2 ** 32 })],
      ['destination region 2^32', laneOf({ to: 2 ** 32 })],
    ]),
    refuses('blocks that name what is not there', [
      ['a group too many', planOf([lane(page)], [one], [[0, 2, 0, 1]])],
      ['a lane too many', planOf([lane(page)], [one], [[0, 1, 0, 2]])],
      ['groups that end before they begin', planOf([lane(page)], [one, one], [[2, 1, 0, 1]])],
      ['lanes that end before they begin', planOf([lane(page), lane(page)], [one], [[0, 1, 2, 1]])],
      ['a negative group', planOf([lane(page)], [one], [[-3, 1, 0, 1]])],
    ]),
    check('what is no plan at all', async (world) => {
      const right = planOf([lane(page)], [one])
      const wrong = (change: object): TransferPlan => ({ ...right, ...change })
      await mustRefuse(world, [
        ['undefined as a plan', undefined as never],
        ['null as a plan', null as never],
        ['a text as a plan', 'plan' as never],
        ['lanes that are a plain array', wrong({ lanes: [...right.lanes] })],
        ['groups of another type', wrong({ groups: Float64Array.from(right.groups) })],
        ['no blocks', wrong({ blocks: undefined })],
        ['lanes that are no whole rows', wrong({ lanes: right.lanes.subarray(0, 9) })],
        ['groups that are no whole rows', wrong({ groups: new Int32Array(4) })],
        ['blocks that are no whole rows', wrong({ blocks: new Int32Array(5) })],
      ])
    }),
  ],
}
