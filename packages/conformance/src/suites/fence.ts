/** What an owner does so that the bytes of a writer that it has lost cannot land any more. */
import { setTimeout as sleep } from 'node:timers/promises'
import { newGeneration, patience, type Host } from '../kit/host.ts'
import { must, within } from '../kit/promises.ts'
import { pattern } from '../kit/pattern.ts'
import { whole } from '../kit/plans.ts'
import { refusal, type World } from '../kit/world.ts'
import { check, type Suite, type Unless } from '../suite.ts'

const MiB = 1024 * 1024
const bytes = 16 * MiB
const watchMs = 400

const perPeer: Unless = ({ capabilities }) =>
  capabilities.fence === 'engine' ? 'the fence of this engine is its own close' : undefined

/** The owner's fence against a writer: its own for that peer, or the end of its engine. */
async function fence(world: World, owner: Host, generation: string): Promise<void> {
  if (world.facts.capabilities.fence === 'engine')
    await owner.party.ask('closeEngine', owner.engine)
  else await owner.party.ask('fence', owner.engine, generation)
}

/** Resolves to whether it has ended in that time. */
async function endsWithin(ms: number, work: Promise<unknown>): Promise<boolean> {
  return Promise.race([work.then(() => true), sleep(ms, false)])
}

export const fencing: Suite = {
  name: 'fence',
  checks: [
    check(
      'a writer that is stopped in the middle of writes: after the fence no byte of it lands',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        await writer.party.ask('stream', link.number, whole(bytes))
        await writer.party.freeze()
        const fenced = fence(world, owner, writer.generation)
        const early = await endsWithin(1_000, fenced)
        // An owner that is not sure yet waits until the writer goes on, or is gone.
        if (early) await owner.mark(0x51)
        writer.party.thaw()
        if (early) {
          await owner.mustStay(
            0x51,
            watchMs,
            'fence',
            'The fence had resolved, and the writer went on. The target',
          )
          return
        }
        await endsWithin(300, fenced)
        await writer.party.kill()
        await within(patience, fenced, 'fence', 'The fence against a writer that was killed')
        await owner.noLateByte(0x52, watchMs, 'fence', 'After the fence the target')
      },
    ),
    check(
      'a writer that is killed in the middle of writes: the fence resolves, and nothing lands',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        await writer.party.ask('stream', link.number, whole(bytes))
        await writer.party.kill()
        const fenced = fence(world, owner, writer.generation)
        await within(patience, fenced, 'fence', 'The fence against a writer that was killed')
        await owner.noLateByte(0x53, watchMs, 'fence', 'After the fence the target')
      },
    ),
    check('a program that the writer has started does not hold the fence up', async (world) => {
      const { writer, owner, link } = await world.pair(bytes)
      await writer.party.ask('stream', link.number, whole(bytes))
      const program = await writer.party.ask('startProgram')
      await writer.party.kill()
      try {
        const fenced = fence(world, owner, writer.generation)
        const what =
          'The fence against a killed writer, of which a program that it had started goes on,'
        await within(patience, fenced, 'fence', what)
        await owner.noLateByte(0x54, watchMs, 'fence', 'After the fence the target')
      } finally {
        process.kill(program, 'SIGKILL')
      }
    }),
    check(
      'a writer that writes on: after the fence no byte of it lands, or it waits for its end',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        await writer.party.ask('stream', link.number, whole(bytes))
        const fenced = fence(world, owner, writer.generation)
        if (!(await endsWithin(1_000, fenced))) {
          await writer.party.kill()
          await within(patience, fenced, 'fence', 'The fence against a writer that was killed')
        }
        await owner.noLateByte(0x55, watchMs, 'fence', 'After the fence the target')
      },
      perPeer,
    ),
    check(
      'a generation that never connected is barred at once, and for good',
      async (world) => {
        const owner = await world.host('owner', [4096])
        const generation = newGeneration()
        const fenced = fence(world, owner, generation)
        await within(5_000, fenced, 'barred', 'The fence against a generation that never connected')
        const writer = await world.host('writer', [4096], { generation })
        await refusal(
          writer.connect(owner.peer, { timeoutMs: 5_000 }),
          ['ERR_KVX_CONNECT_FAILED'],
          'barred',
          'The connect of a generation that is barred',
        )
      },
      perPeer,
    ),
    check(
      'a fence against one writer leaves the others alone',
      async (world) => {
        const { writer, owner, link } = await world.pair(MiB)
        const other = await world.host('writer', [MiB])
        await other.connect(owner.peer)
        await other.party.kill()
        await fence(world, owner, other.generation)
        await writer.fill(1)
        await link.move(whole(MiB))
        await owner.mustHold(pattern(1, MiB), 'fence', 'Written by the other writer the target')
      },
      perPeer,
    ),
    check(
      'the wait for a fence can be aborted',
      async (world) => {
        const { writer, owner } = await world.pair(4096)
        const { party, engine } = owner
        const aborted = ['ERR_KVX_ABORTED']
        await refusal(
          party.ask('fence', engine, newGeneration(), 0),
          aborted,
          'fenceAborted',
          'A fence whose signal was aborted before it',
        )
        await writer.party.freeze()
        const waiting = party
          .ask('fence', engine, writer.generation, 200)
          .catch((error: unknown) => {
            must(
              (error as { code?: unknown }).code === 'ERR_KVX_ABORTED',
              'fenceAborted',
              `A fence that was aborted rejected with ${String(error)}.`,
            )
          })
        await within(10_000, waiting, 'fenceAborted', 'A fence that was aborted after 200 ms')
      },
      perPeer,
    ),
    check(
      'fence is refused where closing the engine is the fence',
      async (world) => {
        const { party, engine } = await world.host('owner', [4096])
        await refusal(
          party.ask('fence', engine, newGeneration()),
          ['ERR_KVX_INVALID_STATE'],
          'engineFence',
          'fence',
        )
      },
      ({ capabilities }) =>
        capabilities.fence === 'engine' ? undefined : `the kind of fence is ${capabilities.fence}`,
    ),
  ],
}
