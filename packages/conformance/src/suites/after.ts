/** Work of a device that must be over before the first byte is read. */
import { must } from '../kit/promises.ts'
import { pattern } from '../kit/pattern.ts'
import { whole } from '../kit/plans.ts'
import type { World } from '../kit/world.ts'
import { check, type Suite, type Unless } from '../suite.ts'

const bytes = 256 * 1024
const declared: Unless = ({ capabilities }) =>
  capabilities.after === true ? undefined : "the engine does not declare 'after'"

function mustHaveDevice({ fixture }: World): void {
  if (fixture.deviceWork !== undefined) return
  throw new Error(
    "The engine declares 'after', and the fixture names no module deviceWork that could try it. Give one, or skip: { after: 'why' }.",
  )
}

export const after: Suite = {
  name: 'after',
  checks: [
    check(
      'it is refused when it is not declared',
      async (world) => {
        const { link } = await world.pair(4096)
        const given = await link.write(whole(4096), { after: 'any' })
        await given.mustFail(['ERR_KVX_INVALID_OPTION'], 'afterRefused', "It was given 'after'")
        await given.mustSettle()
      },
      ({ capabilities }) =>
        capabilities.after === true ? "the engine declares 'after'" : undefined,
    ),
    check(
      'nothing is read before the work is over, and then what the work has made',
      async (world) => {
        mustHaveDevice(world)
        const { writer, owner, link } = await world.pair(bytes)
        await Promise.all([writer.fill(1), owner.mark(0x5a)])
        const transfer = await link.write(whole(bytes), { after: 'unfinished' })
        await owner.mustStay(0x5a, 200, 'after', 'Before the work was over the target')
        const { done } = await transfer.state()
        must(done === 'pending', 'after', `Before the work was over done was ${done}.`)
        await writer.fill(2)
        await writer.party.ask('finishWork')
        await transfer.mustSucceed()
        await owner.mustHold(pattern(2, bytes), 'after', 'What the work has made: the target')
      },
      declared,
    ),
    check(
      'a deadline that passes before the work is over, and a write without it beside',
      async (world) => {
        mustHaveDevice(world)
        const { writer, owner, link } = await world.pair(bytes)
        const other = await writer.connect(owner.peer)
        const waiting = await link.write(whole(bytes), { after: 'unfinished', deadlineMs: 200 })
        await other.move(whole(bytes))
        await waiting.mustFail(
          ['ERR_KVX_TRANSFER_TIMEOUT'],
          'deadline',
          'Its work was not over at its deadline',
        )
        await owner.mark(0x31)
        await writer.party.ask('finishWork')
        await waiting.mustSettle()
        await owner.noLateByte(0x32, 200, 'settled', 'After it had settled the target')
      },
      declared,
    ),
  ],
}
