/** Who has lost a peer is told. */
import { setTimeout as sleep } from 'node:timers/promises'
import { patience, type Host } from '../kit/host.ts'
import { Refusal } from '../kit/party.ts'
import { must } from '../kit/promises.ts'
import { whole } from '../kit/plans.ts'
import { check, type Suite, type Unless } from '../suite.ts'

const bytes = 1024 * 1024
const tells: Unless = ({ tellsPeerGone }) =>
  tellsPeerGone ? undefined : 'the engine has no onPeerGone'

async function mustHear(host: Host, generation: string, what: string): Promise<void> {
  const until = performance.now() + patience
  for (;;) {
    const told = await host.party.ask('gone', host.engine)
    if (told.some(([one]) => one === generation)) return
    must(
      performance.now() < until,
      'peerGone',
      `${what}, and after ${patience} ms nobody was told.`,
    )
    await sleep(10)
  }
}

async function mustNotHear(host: Host, what: string): Promise<void> {
  await sleep(500)
  const told = await host.party.ask('gone', host.engine)
  must(told.length === 0, 'peerGone', `${what}, and it was told: ${JSON.stringify(told)}`)
}

export const peerLoss: Suite = {
  name: 'peer loss',
  checks: [
    check(
      'a writer is told that its owner was killed',
      async (world) => {
        const { writer, owner } = await world.pair(bytes)
        await writer.party.ask('listen', writer.engine)
        await owner.party.kill()
        await mustHear(writer, owner.generation, 'The owner was killed')
      },
      tells,
    ),
    check(
      'a writer is told that its owner has closed its engine',
      async (world) => {
        const { writer, owner } = await world.pair(bytes)
        await writer.party.ask('listen', writer.engine)
        await owner.close()
        await mustHear(writer, owner.generation, 'The owner has closed its engine')
      },
      tells,
    ),
    check(
      'an owner is told that its writer was killed, in the middle of writes',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        await owner.party.ask('listen', owner.engine)
        await writer.party.ask('stream', link.number, whole(bytes))
        await writer.party.kill()
        await mustHear(owner, writer.generation, 'The writer was killed')
      },
      tells,
    ),
    check(
      'nobody is told of a link that was closed, or of a peer that is stopped',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        for (const host of [writer, owner]) await host.party.ask('listen', host.engine)
        await link.move(whole(bytes))
        await writer.connect(owner.peer)
        await link.close()
        await mustNotHear(owner, 'A link was closed')
        await writer.party.freeze()
        await mustNotHear(owner, 'The writer was stopped')
        writer.party.thaw()
        await owner.party.freeze()
        await mustNotHear(writer, 'The owner was stopped')
      },
      tells,
    ),
    check(
      'writes to an owner that was killed fail by their deadline, and settle',
      async (world) => {
        const { writer, owner, link } = await world.pair(bytes)
        await link.move(whole(bytes))
        await owner.party.kill()
        const late = await link.write(whole(bytes), { deadlineMs: 5_000 })
        const outcome = await late.outcome(15_000)
        must(outcome instanceof Refusal, 'done', 'A write to a process that was killed succeeded.')
        must(
          ['ERR_KVX_PEER_LOST', 'ERR_KVX_TRANSFER_FAILED', 'ERR_KVX_TRANSFER_TIMEOUT'].includes(
            outcome.code,
          ),
          'done',
          `A write to a process that was killed was refused with ${outcome.code} (${outcome.message}).`,
        )
        await late.mustSettle()
        const other = await world.host('owner', [bytes])
        await (await writer.connect(other.peer)).move(whole(bytes))
      },
    ),
  ],
}
