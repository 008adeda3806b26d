/** One peer that does not answer, beside one that does. */
import { RemoteTransfer } from '../kit/host.ts'
import { BrokenPromise, must } from '../kit/promises.ts'
import { reversed, whole } from '../kit/plans.ts'
import { check, type Suite } from '../suite.ts'

const MiB = 1024 * 1024
const bytes = 32 * MiB

export const slowPeer: Suite = {
  name: 'slow peer',
  checks: [
    check('writes to a peer that is stopped hold up no write to another', async (world) => {
      const [writer, slow, fast] = await Promise.all([
        world.host('writer', [bytes]),
        world.host('owner', [bytes]),
        world.host('owner', [bytes]),
      ])
      const [stuck, free] = [await writer.connect(slow.peer), await writer.connect(fast.peer)]
      await slow.party.freeze()
      const plan = reversed(16 * 1024, bytes / (16 * 1024))
      const numbers = await writer.party.ask(
        'writeMany',
        Array.from({ length: 20 }, () => [stuck.number, plan] as const),
        { deadlineMs: 60_000 },
      )
      const began = performance.now()
      for (let i = 0; i < 5; i++) await free.move(whole(MiB))
      const ms = performance.now() - began
      must(
        ms < 10_000,
        'independent',
        `Five writes of 1 MiB took ${Math.round(ms)} ms beside a peer that is stopped.`,
      )
      slow.party.thaw()
      for (const number of numbers)
        await new RemoteTransfer(writer.party, number).mustSettle(60_000)
    }),
    check('connects to a peer that is stopped hold up no connect to another', async (world) => {
      const [writer, slow, fast] = await Promise.all([
        world.host('writer', [MiB]),
        world.host('owner', [MiB]),
        world.host('owner', [MiB]),
      ])
      await slow.party.freeze()
      const waiting = Array.from({ length: 4 }, () =>
        writer.connect(slow.peer, { timeoutMs: 20_000 }).catch(() => undefined),
      )
      const began = performance.now()
      const link = await writer.connect(fast.peer).catch((error: unknown) => {
        throw new BrokenPromise(
          'independent',
          `Beside four connects to a peer that is stopped one to another peer failed: ${String(error)}`,
        )
      })
      await link.move(whole(MiB))
      const ms = performance.now() - began
      must(
        ms < 10_000,
        'independent',
        `A connect and a write took ${Math.round(ms)} ms beside four connects to a peer that is stopped.`,
      )
      slow.party.thaw()
      await Promise.all(waiting)
    }),
  ],
}
