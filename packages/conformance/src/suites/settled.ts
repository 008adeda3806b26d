/** Once a transfer has settled its memory belongs to others, on both sides. */
import { setTimeout as sleep } from 'node:timers/promises'
import { RemoteTransfer, type Host, type Link } from '../kit/host.ts'
import { must, within } from '../kit/promises.ts'
import { pattern } from '../kit/pattern.ts'
import { reversed, whole } from '../kit/plans.ts'
import { check, type Suite } from '../suite.ts'

const MiB = 1024 * 1024
const bytes = 32 * MiB
const many = reversed(16 * 1024, bytes / (16 * 1024))
/** How long is looked for a byte that comes too late. */
const watchMs = 400

async function writeMany(writer: Host, link: Link, count: number, deadlineMs: number) {
  const given = Array.from({ length: count }, () => [link.number, many] as const)
  const numbers = await writer.party.ask('writeMany', given, { deadlineMs })
  return numbers.map((number) => new RemoteTransfer(writer.party, number))
}

export const settled: Suite = {
  name: 'settled',
  checks: [
    check('after it nothing lands, and the source is not read any more', async (world) => {
      const { writer, owner, link } = await world.pair(bytes)
      for (let round = 1; round <= 5; round++) {
        await writer.fill(round)
        const transfer = await link.write(whole(bytes))
        await transfer.mustSettle()
        await writer.mark(0)
        await transfer.mustSucceed()
        await owner.mustHold(
          pattern(round, bytes),
          'settled',
          'The source was overwritten when the transfer had settled. The target',
        )
      }
      await owner.noLateByte(
        0x41,
        watchMs,
        'settled',
        'After five transfers had settled the target',
      )
    }),
    check('a refused, a cancelled and an empty transfer settle too', async (world) => {
      const { link } = await world.pair(4096)
      const refused = await link.write(whole(8192))
      await refused.mustSettle()
      const empty = await link.write({
        ...{ lanes: new Float64Array(0), groups: new Int32Array(0), blocks: new Int32Array(0) },
      })
      await empty.mustSettle()
      const cancelled = await link.write(whole(4096))
      await cancelled.cancel()
      await cancelled.mustSettle()
    }),
    check(
      'transfers that were given up in the middle: no late byte once they have settled',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        const late = await writeMany(writer, link, 20, 5)
        const given = Array.from({ length: 20 }, () => [link.number, many] as const)
        const cancelled = await writer.party.ask('writeMany', given, {}, 0)
        const all = [
          ...late,
          ...cancelled.map((number) => new RemoteTransfer(writer.party, number)),
        ]
        for (const transfer of all) await transfer.outcome()
        for (const transfer of all) await transfer.mustSettle()
        await owner.noLateByte(0x40, watchMs, 'settled', 'After all of them had settled the target')
      },
    ),
    check('nobody needs to look at done or settled', async (world) => {
      const { writer, link } = await world.pair(4096)
      await writer.party.ask('writeAndForget', link.number, whole(8192))
      await writer.party.ask('writeAndForget', link.number, whole(4096))
      await link.move(whole(4096))
      await sleep(50)
    }),
    check(
      'a target that is stopped and goes on: no late byte of what had settled',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        await writer.fill(1)
        await owner.mark(0x42)
        await owner.party.freeze()
        const transfers = await writeMany(writer, link, 4, 300)
        for (const transfer of transfers) await transfer.outcome()
        await sleep(200)
        const early = await Promise.all(transfers.map((transfer) => transfer.state()))
        const allSettled = early.every((state) => state.settled === 'resolved')
        // Whatever is still on its way may land now, unless the engine has said that nothing can.
        const before = allSettled ? await frozenBytes(owner) : undefined
        owner.party.thaw()
        if (before !== undefined)
          await owner.mustHold(
            before,
            'settled',
            'All had settled while the target was stopped. When it went on it',
          )
        for (const transfer of transfers) await transfer.mustSettle(30_000)
        await owner.noLateByte(0x43, watchMs, 'settled', 'After all of them had settled the target')
      },
    ),
    check('a writer that is stopped in the middle and goes on: no late byte', async (world) => {
      const { writer, owner, link } = await world.pair(bytes)
      const transfers = await writeMany(writer, link, 20, 30_000)
      await writer.party.freeze()
      await sleep(100)
      writer.party.thaw()
      for (const transfer of transfers) await transfer.outcome()
      for (const transfer of transfers) await transfer.mustSettle()
      await owner.noLateByte(0x44, watchMs, 'settled', 'After all of them had settled the target')
    }),
    check('after link.close and engine.close nothing lands', async (world) => {
      const { writer, owner, link } = await world.pair(bytes)
      await writeMany(writer, link, 20, 30_000)
      await link.close()
      await owner.noLateByte(0x45, watchMs, 'linkClose', 'After the link was closed the target')
      const again = await writer.connect(owner.peer)
      await writeMany(writer, again, 20, 30_000)
      await writer.close()
      await owner.noLateByte(0x46, watchMs, 'close', 'After the engine was closed the target')
    }),
    check('a target that is gone: what was written to it settles', async (world) => {
      const { writer, owner, link } = await world.pair(bytes)
      const transfers = await writeMany(writer, link, 10, 5_000)
      await owner.party.kill()
      for (const transfer of transfers) await transfer.outcome()
      const all = Promise.all(transfers.map((transfer) => transfer.mustSettle(30_000)))
      await within(30_000, all, 'settled', 'settled of transfers whose target was killed')
      const late = await link.write(whole(4096), { deadlineMs: 5_000 })
      must((await late.outcome()) instanceof Error, 'done', 'A write to a dead process succeeded.')
    }),
  ],
}

/** The memory of a process that is stopped, by its memory file. */
async function frozenBytes(owner: Host): Promise<Buffer | undefined> {
  const { file, bytes: length } = owner.memories[0]!
  if (file === undefined) return undefined
  const { readFile } = await import('node:fs/promises')
  const all = await readFile(file)
  return all.subarray(0, length)
}
