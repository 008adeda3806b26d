/** Opening and closing, in any order, at any time. */
import { reversed, whole } from '../kit/plans.ts'
import { newGeneration, RemoteTransfer, type Host } from '../kit/host.ts'
import { pattern } from '../kit/pattern.ts'
import { Refusal } from '../kit/party.ts'
import { must } from '../kit/promises.ts'
import { check, type Suite } from '../suite.ts'

const MiB = 1024 * 1024

/** Closes an engine, which may say that it could not settle everything. */
export async function closeAnyhow(host: Host): Promise<void> {
  await host.close().catch((error: unknown) => {
    if (!(error instanceof Refusal && error.code === 'ERR_KVX_UNSETTLED')) throw error
  })
}

export const lifecycle: Suite = {
  name: 'lifecycle',
  checks: [
    check('ten engines one after the other in one process', async (world) => {
      const party = world.party('writer')
      for (let i = 0; i < 10; i++) await (await world.host('writer', [], { party })).close()
    }),
    check('two engines side by side in one process, and each moves bytes', async (world) => {
      const [a, b] = [world.party('writer'), world.party('owner')]
      const writers = [
        await world.host('writer', [MiB], { party: a }),
        await world.host('writer', [MiB], { party: a }),
      ]
      const owner = await world.host('owner', [MiB, MiB], { party: b })
      for (const [i, writer] of writers.entries()) {
        await writer.fill(i + 1)
        await (await writer.connect(owner.peer)).move(whole(MiB, 0, i))
        await owner.mustHold(pattern(i + 1, MiB), 'plan', `Region ${i} of the target`, i)
      }
    }),
    check('an engine that writes to itself, or refuses to connect', async (world) => {
      const host = await world.host('writer', [MiB, MiB])
      const link = await host.connect(host.peer).catch((error: unknown) => {
        if (error instanceof Refusal && error.code === 'ERR_KVX_CONNECT_FAILED') return undefined
        throw error
      })
      await host.fill(3)
      await link?.move(whole(MiB, 0, 1))
      if (link) await host.mustHold(pattern(3, MiB), 'plan', 'Region 1 of the engine itself', 1)
    }),
    check('two links to one peer, of which one is closed', async (world) => {
      const { writer, owner, link } = await world.pair(MiB)
      const other = await writer.connect(owner.peer)
      await writer.fill(5)
      await link.close()
      await other.move(whole(MiB))
      await owner.mustHold(pattern(5, MiB), 'plan', 'After the other link was closed, the target')
    }),
    check('both directions at once', async (world) => {
      const [a, b] = await Promise.all([
        world.host('writer', [MiB, MiB]),
        world.host('owner', [MiB, MiB]),
      ])
      const [there, back] = [await a.connect(b.peer), await b.connect(a.peer)]
      await Promise.all([a.fill(1), b.fill(2)])
      await Promise.all([there.move(whole(MiB, 0, 1)), back.move(whole(MiB, 0, 1))])
      await b.mustHold(pattern(1, MiB), 'plan', 'What was written there', 1)
      await a.mustHold(pattern(2, MiB), 'plan', 'What was written back', 1)
    }),
    check('closing twice, and a link after its engine', async (world) => {
      const { writer, owner, link } = await world.pair(4096)
      for (const [what, close] of [
        ['engine', () => writer.close()],
        ['link', () => link.close()],
      ] as const) {
        await close()
        await close().catch((error: unknown) => {
          must(false, 'close', `The second close() of the same ${what} rejected: ${String(error)}`)
        })
      }
      await owner.close()
    }),
    check('a link closed with transfers under way settles all of them first', async (world) => {
      const { link, writer } = await world.pair(16 * MiB)
      const plan = reversed(4096, 4096)
      const numbers = await writer.party.ask(
        'writeMany',
        Array.from({ length: 20 }, () => [link.number, plan] as const),
      )
      await link.close()
      for (const number of numbers) {
        const transfer = new RemoteTransfer(writer.party, number)
        const { settled } = await transfer.state()
        must(settled === 'resolved', 'linkClose', 'close resolved, and a transfer had not settled.')
        await transfer.outcome()
      }
    }),
    check('an engine closed with transfers under way ends all of them', async (world) => {
      const { link, writer } = await world.pair(16 * MiB)
      const plan = reversed(4096, 4096)
      const numbers = await writer.party.ask(
        'writeMany',
        Array.from({ length: 20 }, () => [link.number, plan] as const),
      )
      await writer.close()
      for (const number of numbers) {
        const transfer = new RemoteTransfer(writer.party, number)
        const { settled } = await transfer.state()
        must(settled === 'resolved', 'close', 'close resolved, and a transfer had not settled.')
        await transfer.outcome()
      }
    }),
    check('an owner closed while it is written to: every transfer ends', async (world) => {
      const { link, writer, owner } = await world.pair(16 * MiB)
      const plan = reversed(4096, 4096)
      const numbers = await writer.party.ask(
        'writeMany',
        Array.from({ length: 20 }, () => [link.number, plan] as const),
        { deadlineMs: 3_000 },
      )
      await owner.close()
      for (const number of numbers) await new RemoteTransfer(writer.party, number).outcome()
      await closeAnyhow(writer)
    }),
    check('a new generation after the old one was closed', async (world) => {
      const { writer, owner } = await world.pair(MiB)
      await owner.close()
      const again = await world.host('owner', [MiB], {
        ...{ party: owner.party, generation: newGeneration() },
      })
      await writer.fill(9)
      await (await writer.connect(again.peer)).move(whole(MiB))
      await again.mustHold(pattern(9, MiB), 'plan', 'The memory of the new generation')
    }),
  ],
}
