/** A `done` always ends. */
import { RemoteTransfer } from '../kit/host.ts'
import { Refusal } from '../kit/party.ts'
import { must } from '../kit/promises.ts'
import { reversed } from '../kit/plans.ts'
import type { World } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'

const MiB = 1024 * 1024
const bytes = 32 * MiB
/** What a busy machine may take on top. */
const slack = 10_000

/** Writes `count` transfers with one deadline; each must end by it, and with the right code when it fails. */
async function mustEnd(world: World, count: number, deadlineMs: number, frozen: boolean) {
  const { writer, owner, link } = await world.pair(bytes)
  if (frozen) await owner.party.freeze()
  const numbers = await writer.party.ask(
    'writeMany',
    Array.from(
      { length: count },
      () => [link.number, reversed(16 * 1024, bytes / (16 * 1024))] as const,
    ),
    { deadlineMs },
  )
  let failed = 0
  for (const number of numbers) {
    const transfer = new RemoteTransfer(writer.party, number)
    const outcome = await transfer.outcome(deadlineMs + slack)
    if (!(outcome instanceof Refusal)) continue
    failed++
    must(
      outcome.code === 'ERR_KVX_TRANSFER_TIMEOUT',
      'deadline',
      `A transfer with a deadline of ${deadlineMs} ms was refused with ${outcome.code} (${outcome.message}) instead of ERR_KVX_TRANSFER_TIMEOUT.`,
    )
  }
  if (frozen) owner.party.thaw()
  for (const number of numbers) await new RemoteTransfer(writer.party, number).mustSettle(30_000)
  return { owner, link, failed }
}

export const deadline: Suite = {
  name: 'deadline',
  checks: [
    check(
      'of a hundred transfers that take longer together than their deadline, some fail by it',
      async (world) => {
        const { owner, failed } = await mustEnd(world, 100, 20, false)
        must(
          failed > 0,
          'deadline',
          'A hundred transfers of 32 MiB over one link, each with a deadline of 20 ms, all succeeded.',
        )
        await owner.noLateByte(0x21, 300, 'settled', 'After all of them had settled the target')
      },
    ),
    check('done ends by its deadline when the target is stopped', async (world) => {
      await mustEnd(world, 3, 500, true)
    }),
    check('after a deadline the link goes on', async (world) => {
      const { link } = await mustEnd(world, 10, 20, false)
      await link.move(reversed(4096, 4))
    }),
  ],
}
