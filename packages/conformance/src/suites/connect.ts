/** Addresses that lead to nobody, to somebody else, or to one who is silent. */
import { randomBytes } from 'node:crypto'
import type { PeerAddress } from '@kvx/contract'
import { newGeneration, type Host } from '../kit/host.ts'
import { pattern } from '../kit/pattern.ts'
import { Refusal } from '../kit/party.ts'
import { must, within } from '../kit/promises.ts'
import { whole } from '../kit/plans.ts'
import { refusal, type World } from '../kit/world.ts'
import { check, type Suite } from '../suite.ts'

const MiB = 1024 * 1024
const failed = ['ERR_KVX_CONNECT_FAILED']
const timeoutMs = 3_000
/** A machine that is busy may answer late. */
const slack = 10_000

const mustRefuse = (host: Host, peer: PeerAddress, what: string): Promise<Refusal> =>
  within(
    timeoutMs + slack,
    refusal(host.connect(peer, { timeoutMs }), failed, 'connectRefused', what),
    'connect',
    `${what}, with a timeout of ${timeoutMs} ms,`,
  )

/** Connects if the engine does; the link must then lead to the right memory. */
async function refusedOrRight(
  { writer, owner }: { writer: Host; owner: Host },
  peer: PeerAddress,
  what: string,
): Promise<void> {
  const connecting = writer.connect(peer, { timeoutMs })
  const link = await within(timeoutMs + slack, connecting, 'connect', what).catch(
    (error: unknown) => {
      if (!(error instanceof Refusal)) throw error
      must(
        failed.includes(error.code),
        'connectRefused',
        `${what} was refused with ${error.code} (${error.message}).`,
      )
      return undefined
    },
  )
  if (link === undefined) return
  const outcome = await (await link.write(whole(4096), { deadlineMs: timeoutMs })).outcome()
  if (outcome instanceof Refusal) return
  const found = await owner.read(0, 4096)
  must(
    Buffer.compare(found, pattern(1, 4096)) === 0,
    'connectRefused',
    `${what} was accepted, a write succeeded, and its bytes are not at the target.`,
  )
}

async function pairOf(world: World) {
  const [writer, owner] = await Promise.all([
    world.host('writer', [4096]),
    world.host('owner', [4096]),
  ])
  await writer.fill(1)
  return { writer, owner }
}

export const connect: Suite = {
  name: 'connect',
  checks: [
    check('bytes that are no address are refused', async (world) => {
      const { writer, owner } = await pairOf(world)
      for (const [what, address] of [
        ['No address', new Uint8Array(0)],
        ['One zero', new Uint8Array(1)],
        ['An address that is cut off', owner.address.subarray(0, owner.address.length / 2)],
        ['32 random bytes', randomBytes(32)],
        ['10,000 line feeds', new Uint8Array(10_000).fill(10)],
        ["The address of another engine, 'other/1'", Buffer.from('other/1\nhost\n127.0.0.1:1\n')],
      ] as const)
        await mustRefuse(writer, { ...owner.peer, address }, what)
    }),
    check(
      'an address of which one byte is wrong is refused, or leads to the right memory',
      async (world) => {
        const pair = await pairOf(world)
        const { owner } = pair
        const { length } = owner.address
        for (let i = 0; i < 8; i++) {
          const at = Math.floor((i * (length - 1)) / 7)
          const address = Uint8Array.from(owner.address)
          address[at] = address[at]! ^ 1
          await refusedOrRight(
            pair,
            { ...owner.peer, address },
            `An address with byte ${at} changed`,
          )
        }
      },
    ),
    check('bytes that are no region descriptor are refused', async (world) => {
      const { writer, owner } = await pairOf(world)
      const { descriptor } = owner.regions[0]!
      for (const [what, region] of [
        ['A descriptor that is cut off', descriptor.subarray(0, descriptor.length / 2)],
        ['A descriptor with bytes behind it', Buffer.concat([descriptor, randomBytes(7)])],
        ['64 bytes of 0xff', new Uint8Array(64).fill(0xff)],
      ] as const)
        await mustRefuse(writer, { ...owner.peer, regions: [region] }, what)
    }),
    check('the address of one generation is refused as that of another', async (world) => {
      const { writer, owner } = await pairOf(world)
      const peer = { ...owner.peer, generation: newGeneration() }
      await mustRefuse(writer, peer, 'An address with a generation that is not its own')
    }),
    check('an owner that was killed is refused', async (world) => {
      const { writer, owner } = await pairOf(world)
      const { peer } = owner
      await owner.party.kill()
      await mustRefuse(writer, peer, 'The address of a process that was killed')
    }),
    check('an owner that has closed its engine is refused', async (world) => {
      const { writer, owner } = await pairOf(world)
      const { peer } = owner
      await owner.close()
      await mustRefuse(writer, peer, 'The address of an engine that was closed')
    }),
    check('a silent owner: connect ends by its timeout', async (world) => {
      const { writer, owner } = await pairOf(world)
      await owner.party.freeze()
      const connecting = writer
        .connect(owner.peer, { timeoutMs: 1_000 })
        .catch((error: unknown) => {
          must(
            error instanceof Refusal && failed.includes(error.code),
            'connectRefused',
            `A stopped process was refused with ${String(error)}.`,
          )
        })
      await within(
        1_000 + slack,
        connecting,
        'connect',
        'A connect to a stopped process with a timeout of 1,000 ms',
      )
    }),
    check('a connect that is aborted', async (world) => {
      const { writer, owner } = await pairOf(world)
      const aborted = ['ERR_KVX_ABORTED']
      await refusal(
        writer.connect(owner.peer, { abortAfterMs: 0 }),
        aborted,
        'connectAborted',
        'A connect whose signal was aborted before it',
      )
      await owner.party.freeze()
      const connecting = writer.connect(owner.peer, { timeoutMs: 30_000, abortAfterMs: 300 })
      const ended = connecting.catch((error: unknown) => {
        must(
          error instanceof Refusal && aborted.includes(error.code),
          'connectAborted',
          `A connect that was aborted after 300 ms rejected with ${String(error)}.`,
        )
      })
      await within(300 + slack, ended, 'connectAborted', 'A connect that was aborted after 300 ms')
    }),
    check(
      'an engine opened again in the same process takes nothing of the old one',
      async (world) => {
        const { writer, owner, link } = await world.pair(MiB)
        await writer.fill(1)
        const { peer } = owner
        await owner.close()
        const again = await world.host('owner', [], { party: owner.party })
        // The very same memory.
        await again.register(owner.memories[0]!)
        again.memories.push(owner.memories[0]!)
        await again.mark(0x77)
        await mustRefuse(writer, peer, 'The address of the generation before')
        const stale = await link.write(whole(MiB), { deadlineMs: 2_000 })
        const outcome = await stale.outcome()
        must(
          outcome instanceof Refusal,
          'generation',
          'A write over a link to the generation before succeeded.',
        )
        await again.mustStay(
          0x77,
          200,
          'generation',
          'After that write the memory of the new engine',
        )
        await (await writer.connect(again.peer)).move(whole(MiB))
        await again.mustHold(pattern(1, MiB), 'plan', 'The memory of the new engine')
      },
    ),
  ],
}
