/** Memory that an engine gets to know, and forgets. */
import { reversed, whole } from '../kit/plans.ts'
import { pattern } from '../kit/pattern.ts'
import { Refusal } from '../kit/party.ts'
import { must } from '../kit/promises.ts'
import { refusal, type World } from '../kit/world.ts'
import type { Host, RemoteMemory, RemoteRegion } from '../kit/host.ts'
import { RemoteTransfer } from '../kit/host.ts'
import { check, type Suite } from '../suite.ts'

const MiB = 1024 * 1024
const refused = ['ERR_KVX_MEMORY']

/** Its region, or undefined when the engine refuses such memory by the right code. */
async function registered(
  host: Host,
  memory: RemoteMemory,
  change: Parameters<Host['register']>[1],
  what: string,
): Promise<RemoteRegion | undefined> {
  const region = await host.register(memory, change).catch((error: unknown) => {
    if (error instanceof Refusal) return error
    throw error
  })
  if (!(region instanceof Refusal)) return region
  must(
    refused.includes(region.code) && region.message !== '',
    'register',
    `${what} was refused with ${region.code} (${region.message}) instead of ERR_KVX_MEMORY.`,
  )
  return undefined
}

/** Memory that an engine may refuse; one that takes it must move its bytes. */
async function refusedOrRight(world: World, side: 'writer' | 'owner', what: string, make: Change) {
  const [writer, owner] = await Promise.all([world.host('writer'), world.host('owner')])
  const host = side === 'writer' ? writer : owner
  const other = side === 'writer' ? owner : writer
  const memory = await host.allocate(MiB)
  host.memories.push(memory)
  if ((await registered(host, memory, make(memory), what)) === undefined) return
  await other.provide(MiB)
  await writer.fill(4)
  await (await writer.connect(owner.peer)).move(whole(MiB))
  await owner.mustHold(pattern(4, MiB), 'register', `${what} was taken, and the target`)
}
type Change = (memory: RemoteMemory) => NonNullable<Parameters<Host['register']>[1]>

export const memory: Suite = {
  name: 'memory',
  checks: [
    check('regions are numbered in the order of register', async (world) => {
      const host = await world.host('writer')
      for (const [at, bytes] of [4096, 8192, 65_536, 1].entries()) {
        await host.provide(bytes)
        const { id, bytes: said } = host.regions[at]!
        must(
          id === at && said === bytes,
          'regionNumbers',
          `Region ${at} of ${bytes} bytes says that it is number ${id} of ${said} bytes.`,
        )
      }
    }),
    check('what is no range of memory is refused', async (world) => {
      const host = await world.host('writer')
      const one = await host.allocate(8192)
      for (const [what, change] of [
        ['Memory of zero bytes', { bytes: 0 }],
        ['Memory of -4096 bytes', { bytes: -4096 }],
        ['Memory of half a byte', { bytes: 0.5 }],
        ['Memory of NaN bytes', { bytes: NaN }],
        ['Memory at address 0', { address: 0n }],
        ['Memory at a negative address', { address: -4096n }],
        ['Memory that ends beyond 2^64', { address: 2n ** 64n - 4096n }],
      ] as const)
        await refusal(host.register(one, change), refused, 'register', what)
    }),
    check('foreign memory, without a memory file: refused, or right', (world) =>
      refusedOrRight(world, 'owner', 'Memory without fd', () => ({ fd: undefined })),
    ),
    check('foreign memory as a source: refused, or right', (world) =>
      refusedOrRight(world, 'writer', 'Memory without fd and view', () => ({
        ...{ fd: undefined, view: undefined as never },
      })),
    ),
    check('the same memory twice, and memory that overlaps: refused, or right', async (world) => {
      const { writer, owner, link } = await world.pair(MiB)
      for (const host of [writer, owner]) {
        const [one] = host.memories
        await registered(host, one!, {}, 'The same memory a second time')
        await registered(host, one!, { bytes: MiB / 2, fd: undefined }, 'Half of the same memory')
      }
      await writer.fill(6)
      await link.move(whole(MiB))
      await owner.mustHold(pattern(6, MiB), 'register', 'After that the target of region 0')
    }),
    check(
      'a region is deregistered when no transfer reads it any more, and then refused',
      async (world) => {
        const { writer, link } = await world.pair(16 * MiB)
        const [region] = writer.regions
        const numbers = await writer.party.ask(
          'writeMany',
          Array.from({ length: 8 }, () => [link.number, reversed(4096, 4096)] as const),
        )
        const gone = writer.party.ask('deregister', region!.region)
        const late = await link.write(whole(4096))
        await late.mustFail(
          ['ERR_KVX_PLAN_INVALID'],
          'deregister',
          'A write from the region came after deregister',
        )
        await late.mustSettle()
        await gone
        for (const number of numbers) {
          const { settled } = await new RemoteTransfer(writer.party, number).state()
          must(
            settled === 'resolved',
            'deregister',
            'deregister resolved before a transfer that reads the region had settled.',
          )
        }
        await writer.party.ask('deregister', region!.region)
        await writer.party.ask('free', writer.memories[0]!.memory)
      },
    ),
    check('a region that its owner has deregistered is refused', async (world) => {
      const { writer, owner } = await world.pair(MiB)
      const { peer } = owner
      await owner.party.ask('deregister', owner.regions[0]!.region)
      await owner.mark(7)
      const link = await writer.connect(peer, { timeoutMs: 5_000 }).catch((error: unknown) => {
        if (error instanceof Refusal && error.code === 'ERR_KVX_CONNECT_FAILED') return undefined
        throw error
      })
      if (link === undefined) return
      const late = await link.write(whole(MiB), { deadlineMs: 5_000 })
      await late.mustFail(
        ['ERR_KVX_TRANSFER_FAILED', 'ERR_KVX_PEER_LOST', 'ERR_KVX_TRANSFER_TIMEOUT'],
        'connectRefused',
        'A link was made to a region that is not registered any more',
      )
      await owner.mustStay(7, 100, 'connectRefused', 'Memory that is not registered any more')
    }),
    check('memory is registered and used while another region is deregistered', async (world) => {
      const { writer, owner, link } = await world.pair(MiB)
      await writer.provide(MiB)
      await writer.fill(8, 1)
      await writer.party.ask('deregister', writer.regions[0]!.region)
      await link.move(whole(MiB, 1, 0))
      await owner.mustHold(pattern(8, MiB), 'regionNumbers', 'Written from region 1, the target')
      await writer.provide(4096)
      must(writer.regions[2]!.id === 2, 'regionNumbers', 'A number of a region was used again.')
    }),
  ],
}
