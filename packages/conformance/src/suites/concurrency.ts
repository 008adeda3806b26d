/** Much at once: every transfer arrives whole, in its own place. */
import { lane, planOf, type Group } from '../kit/plans.ts'
import { pattern } from '../kit/pattern.ts'
import { RemoteTransfer, type Host, type Link } from '../kit/host.ts'
import { must } from '../kit/promises.ts'
import { check, type Suite } from '../suite.ts'

const page = 4096
const pagesEach = 32
const each = page * pagesEach

/** Part `part` of the source to the same part of region `to`, its pages in reverse order. */
const partOf = (part: number, to: number) =>
  planOf(
    [lane(page, { to, sourceBase: part * each, destinationBase: part * each })],
    Array.from({ length: pagesEach }, (_, i): Group => [i, pagesEach - 1 - i, 1]),
  )

function expected(seed: number, parts: readonly number[], count: number): Buffer {
  const source = pattern(seed, count * each)
  const result = Buffer.alloc(count * each)
  for (const part of parts) {
    for (let i = 0; i < pagesEach; i++) {
      const from = part * each + i * page
      source.copy(result, part * each + (pagesEach - 1 - i) * page, from, from + page)
    }
  }
  return result
}

async function writeAll(writer: Host, given: readonly (readonly [Link, number, number])[]) {
  const numbers = await writer.party.ask(
    'writeMany',
    given.map(([link, part, to]) => [link.number, partOf(part, to)] as const),
  )
  const transfers = numbers.map((number) => new RemoteTransfer(writer.party, number))
  for (const transfer of transfers) {
    const { bytes } = await transfer.mustSucceed()
    must(bytes === each, 'report', `It reports ${bytes} bytes of a plan that moves ${each}.`)
    await transfer.mustSettle()
  }
}

export const concurrency: Suite = {
  name: 'concurrency',
  checks: [
    check('64 transfers over 8 links to 2 owners', async (world) => {
      const regions = Array.from({ length: 4 }, () => 8 * each)
      const [writer, ...owners] = await Promise.all([
        world.host('writer', [8 * each]),
        world.host('owner', regions),
        world.host('owner', regions),
      ])
      await writer.fill(1)
      const links = await Promise.all(
        Array.from({ length: 8 }, (_, i) => writer.connect(owners[i % 2]!.peer)),
      )
      // Link i writes to owner i % 2, region ⌊i / 2⌋, and its eight transfers to the eight parts of it.
      await writeAll(
        writer,
        Array.from({ length: 64 }, (_, n) => [links[n % 8]!, n >> 3, (n % 8) >> 1] as const),
      )
      const all = expected(1, [0, 1, 2, 3, 4, 5, 6, 7], 8)
      for (const owner of owners)
        for (let at = 0; at < 4; at++)
          await owner.mustHold(all, 'plan', `After 64 transfers region ${at} of a target`, at)
    }),
    check('64 transfers at once over one link', async (world) => {
      const { writer, owner, link } = await world.pair(64 * each)
      await writer.fill(2)
      await writeAll(
        writer,
        Array.from({ length: 64 }, (_, part) => [link, part, 0] as const),
      )
      const parts = Array.from({ length: 64 }, (_, part) => part)
      await owner.mustHold(expected(2, parts, 64), 'plan', 'After 64 transfers the target')
    }),
    check('four writers to one owner', async (world) => {
      const owner = await world.host('owner', [4 * each])
      const writers = await Promise.all([1, 2, 3, 4].map(() => world.host('writer', [4 * each])))
      await Promise.all(
        writers.map(async (writer, part) => {
          await writer.fill(part + 1)
          await writeAll(writer, [[await writer.connect(owner.peer), part, 0]])
        }),
      )
      const all = Buffer.alloc(4 * each)
      for (let part = 0; part < 4; part++)
        expected(part + 1, [part], 4).copy(all, part * each, part * each, (part + 1) * each)
      await owner.mustHold(all, 'plan', 'After a transfer of each the target')
    }),
    check('registering, connecting and closing links beside transfers', async (world) => {
      const { writer, owner, link } = await world.pair(64 * each)
      await writer.fill(3)
      const beside = async (): Promise<void> => {
        for (let i = 0; i < 5; i++) {
          const other = await writer.connect(owner.peer)
          const region = await writer.register(await writer.allocate(page))
          await other.close()
          await writer.party.ask('deregister', region.region)
        }
      }
      const all = Array.from({ length: 64 }, (_, part) => [link, part, 0] as const)
      await Promise.all([beside(), writeAll(writer, all)])
      const parts = Array.from({ length: 64 }, (_, part) => part)
      await owner.mustHold(expected(3, parts, 64), 'plan', 'After 64 transfers the target')
    }),
  ],
}
