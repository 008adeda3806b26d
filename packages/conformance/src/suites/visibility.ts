/** The target looks at once. */
import { must } from '../kit/promises.ts'
import { pattern } from '../kit/pattern.ts'
import { carryOut, lane, planOf, reversed, whole } from '../kit/plans.ts'
import type { World } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'
import type { TransferPlan } from '@kvx/contract'

const MiB = 1024 * 1024

/** In the turn in which `done` resolves, by the target's memory file; by the target itself where it has none. */
async function mustSee(world: World, bytes: number, plan: TransferPlan, rounds: number) {
  const { writer, owner, link } = await world.pair(bytes)
  const { file } = owner.memories[0]!
  for (let round = 1; round <= rounds; round++) {
    await Promise.all([writer.fill(round), owner.mark(round)])
    const when = `When done resolved in round ${round}`
    if (file === undefined) {
      await (await link.write(plan)).mustSucceed()
      const expected = Buffer.alloc(bytes, round)
      carryOut(plan, [pattern(round, bytes)], [expected])
      await owner.mustHold(expected, 'visible', when)
    } else {
      const target = { file, bytes, before: round }
      const wrong = await writer.party.ask('writeAndLook', link.number, plan, target, round)
      must(wrong === undefined, 'visible', `${when}, ${String(wrong)}.`)
    }
  }
}

export const visibility: Suite = {
  name: 'visibility',
  checks: [
    check('of one byte', (world) => mustSee(world, 4096, planOf([lane(1)], [[0, 4095, 1]]), 20)),
    check('of one long run', (world) => mustSee(world, 4 * MiB, whole(4 * MiB), 10)),
    check('of a thousand scattered pages', (world) =>
      mustSee(world, 4_096_000, reversed(4096, 1000), 10),
    ),
  ],
}
