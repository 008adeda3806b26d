/** What nobody waits for any more. */
import { RemoteTransfer } from '../kit/host.ts'
import { Refusal } from '../kit/party.ts'
import { pattern } from '../kit/pattern.ts'
import { must } from '../kit/promises.ts'
import { reversed, whole } from '../kit/plans.ts'
import { check, type Suite } from '../suite.ts'

const MiB = 1024 * 1024
const bytes = 8 * MiB
const long = reversed(4096, bytes / 4096)

export const cancel: Suite = {
  name: 'cancel',
  checks: [
    check(
      'of 200 long transfers cancelled in the turn in which they were written, some are stopped',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        const numbers = await writer.party.ask(
          'writeMany',
          Array.from({ length: 200 }, () => [link.number, long] as const),
          {},
          0,
        )
        let stopped = 0
        for (const number of numbers) {
          const transfer = new RemoteTransfer(writer.party, number)
          const outcome = await transfer.outcome()
          await transfer.mustSettle()
          if (!(outcome instanceof Refusal)) continue
          must(
            outcome.code === 'ERR_KVX_ABORTED',
            'cancel',
            `A cancelled transfer was refused with ${outcome.code} (${outcome.message}) instead of ERR_KVX_ABORTED.`,
          )
          stopped++
        }
        must(stopped > 0, 'cancel', 'All 200 were carried out as if nobody had cancelled them.')
        await owner.noLateByte(0x11, 300, 'settled', 'After all of them had settled the target')
      },
    ),
    check('what is not cancelled goes on', async (world) => {
      const { writer, owner, link } = await world.pair(bytes)
      await writer.fill(1)
      const plans = [
        ...Array.from({ length: 2 }, () => whole(bytes)),
        ...Array.from({ length: 20 }, () => long),
      ]
      const numbers = await writer.party.ask(
        'writeMany',
        plans.map((plan) => [link.number, plan] as const),
        {},
        2,
      )
      const [first, second, ...rest] = numbers.map((n) => new RemoteTransfer(writer.party, n))
      await first!.mustSucceed()
      await second!.mustSucceed()
      for (const transfer of rest) await transfer.mustSettle()
      await link.move(whole(bytes))
      await owner.mustHold(pattern(1, bytes), 'plan', 'A write after them: the target')
    }),
    check('the reason is in the message', async (world) => {
      const { writer, link } = await world.pair(bytes)
      const numbers = await writer.party.ask(
        'writeMany',
        Array.from({ length: 50 }, () => [link.number, long] as const),
        {},
        0,
      )
      for (const number of numbers) {
        const outcome = await new RemoteTransfer(writer.party, number).outcome()
        if (!(outcome instanceof Refusal)) continue
        must(
          outcome.message.includes('nobody waits for it'),
          'cancel',
          `It was cancelled with the reason 'nobody waits for it', and says: ${outcome.message}`,
        )
      }
    }),
    check('after the end it changes nothing', async (world) => {
      const { link } = await world.pair(4096)
      const transfer = await link.write(whole(4096))
      await transfer.mustSucceed()
      await transfer.cancel('too late')
      await transfer.mustSettle()
      await transfer.cancel('later still')
      await transfer.mustSucceed()
      await link.move(whole(4096))
    }),
  ],
}
