/** Every method of what was closed. */
import { newGeneration } from '../kit/host.ts'
import { must } from '../kit/promises.ts'
import { planOf, whole } from '../kit/plans.ts'
import { refusal } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'

const closed = ['ERR_KVX_CLOSED']
const emptyJob = {
  pageTokens: 1,
  tensors: new Float64Array(0),
  keys: new BigUint64Array(0),
  runs: new Int32Array(0),
}

export const closedState: Suite = {
  name: 'closed state',
  checks: [
    check('register, connect, digest and fence of a closed engine', async (world) => {
      const { writer, owner } = await world.pair(4096)
      const memory = await writer.allocate(4096)
      const { party, engine } = writer
      await writer.close()
      await refusal(writer.register(memory), closed, 'closed', 'register after close')
      await refusal(writer.connect(owner.peer), closed, 'closed', 'connect after close')
      await refusal(party.ask('digest', engine, emptyJob), closed, 'closed', 'digest after close')
      await refusal(
        party.ask('fence', engine, newGeneration()),
        [
          ...closed,
          ...(world.facts.capabilities.fence === 'engine' ? ['ERR_KVX_INVALID_STATE'] : []),
        ],
        'closed',
        'fence after close',
      )
    }),
    check(
      'openStaging of a closed engine',
      async (world) => {
        const host = await world.host('writer')
        await host.close()
        const opening = host.party.ask('openStaging', host.engine, 4096)
        await refusal(opening, closed, 'closed', 'openStaging after close')
      },
      ({ stages }) => (stages ? undefined : 'the engine has no openStaging'),
    ),
    check('write, cancel and deregister after the engine was closed', async (world) => {
      const { writer, link } = await world.pair(4096)
      const before = await link.write(whole(4096))
      await before.mustSucceed()
      await writer.close()
      const late = await link.write(whole(4096))
      await late.mustFail(closed, 'closed', 'A write came after close')
      await late.mustSettle()
      await before.cancel()
      await late.cancel()
      await writer.party.ask('deregister', writer.regions[0]!.region)
    }),
    check('write and cancel after the link was closed', async (world) => {
      const { link } = await world.pair(4096)
      await link.close()
      for (const plan of [whole(4096), planOf([], [], [])]) {
        const late = await link.write(plan)
        await late.mustFail(closed, 'closed', 'A write came after link.close')
        await late.mustSettle()
        await late.cancel()
      }
    }),
    check('who waits when an engine is closed is answered', async (world) => {
      const { writer, owner, link } = await world.pair(4096)
      await owner.party.freeze()
      const connecting = writer.connect(owner.peer, { timeoutMs: 30_000 }).then(
        () => undefined,
        (error: unknown) => error,
      )
      const waiting = await link.write(whole(4096), { deadlineMs: 30_000 })
      const closing = writer.close().catch(() => undefined)
      const began = performance.now()
      await Promise.all([connecting, waiting.outcome(), closing])
      must(
        performance.now() - began < 15_000,
        'close',
        'A connect and a write to a stopped peer took longer than 15 s to end when their engine was closed.',
      )
    }),
  ],
}
