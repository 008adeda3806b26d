/** Memory of an engine's own, through which short runs take their way. */
import { must } from '../kit/promises.ts'
import { pattern } from '../kit/pattern.ts'
import { bytesOf, carryOut, lane, planOf, whole, type Group } from '../kit/plans.ts'
import { refusal } from '../kit/world.ts'
import { check, type Suite, type Unless } from '../suite.ts'

const KiB = 1024
const bytes = 64 * KiB
const stages: Unless = ({ stages, capabilities, inHost }) => {
  if (!stages) return 'the engine has no openStaging'
  if (!capabilities.memoryKinds.includes('cpu')) return 'the engine takes no memory of the host'
  return inHost ? undefined : 'only memory of the host is staged, and the fixture has other memory'
}

const strips = planOf(
  [lane(1 * KiB, { runBytes: 48, runs: 8, sourceStride: 128, destinationStride: 100 })],
  Array.from({ length: 30 }, (_, i): Group => [i, (i * 7) % 30, 1]),
)

export const staging: Suite = {
  name: 'staging',
  checks: [
    check(
      'what is gathered, written and scattered is what a plan makes',
      async (world) => {
        const { writer, owner } = await world.pair(bytes)
        await Promise.all([writer.fill(1), owner.mark(9)])
        const here = await writer.party.ask('openStaging', writer.engine, bytes)
        const there = await owner.party.ask('openStaging', owner.engine, bytes)
        must(here.id === 1, 'regionNumbers', `The staging is region ${here.id} instead of 1.`)
        const link = await writer.connect({ ...owner.peer, regions: [there.descriptor] })
        const count = await writer.party.ask('gather', here.staging, strips, 4096)
        must(count === bytesOf(strips), 'gather', `gather says ${count} bytes.`)
        await link.move(planOf([lane(count, { from: 1, sourceBase: 4096 })], [[0, 0, 1]]))
        await owner.party.ask('scatter', there.staging, strips, 0)
        const expected = Buffer.alloc(bytes, 9)
        carryOut(strips, [pattern(1, bytes)], [expected])
        await owner.mustHold(expected, 'scatter', 'The memory of the target')
      },
      (facts) => stages(facts),
    ),
    check(
      'a plan that does not fit is refused',
      async (world) => {
        const host = await world.host('writer', [bytes])
        const { staging: number } = await host.party.ask('openStaging', host.engine, 4096)
        for (const [what, plan, offset] of [
          ['longer than the staging', whole(bytes), 0],
          ['that ends outside of it', whole(4096), 1],
        ] as const)
          await refusal(
            host.party.ask('gather', number, plan, offset),
            ['ERR_KVX_PLAN_INVALID'],
            'refused',
            `gather of a plan ${what}`,
          )
      },
      (facts) => stages(facts),
    ),
  ],
}
