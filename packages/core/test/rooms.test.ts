import { afterEach, expect, test } from 'vitest'
import { promptDigest } from '../src/shape/index.ts'
import { chunkOf, openPair, pageTokens } from './support/pair.ts'

const digest = promptDigest(Array.from({ length: pageTokens }, (_, i) => i))
const request = { tokens: pageTokens, digest }

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

/** One request after the other in each room, each of one page of its own. */
async function runRooms(
  { prefill, decode, from }: Awaited<ReturnType<typeof openPair>>,
  rooms: number,
  requests: number,
): Promise<void> {
  const sending = async (lane: number) => {
    for (let i = 0; i < requests; i++) {
      const sender = prefill.send(BigInt(i * rooms + lane), request)
      await sender.reserved()
      await sender.write(chunkOf(pageTokens, 0, Int32Array.of(lane)))
      await sender.finish()
      await sender.settled
    }
  }
  const receiving = async (lane: number) => {
    for (let i = 0; i < requests; i++) {
      const receiver = decode.receive(BigInt(i * rooms + lane), { ...request, from })
      await receiver.reserve({ pages: Int32Array.of(lane) })
      expect((await receiver.done).report.pages).toBe(1)
      await receiver.settled
    }
  }
  const lanes = Array.from({ length: rooms }, (_, lane) => lane)
  await Promise.all(lanes.flatMap((lane) => [sending(lane), receiving(lane)]))
}

// Whoever loses a message waits for `peerSilent` to ask for it: as long as that none may be lost.
const prefill = { limits: { parkedPerPeer: 4_096 }, deadlines: { peerSilent: 600_000 } }
const decode = { deadlines: { peerSilent: 600_000, ping: 600_000 } }

test.each([384, 512, 2_048])(
  '%i live rooms over one connection end, and none of their messages is lost',
  async (rooms) => {
    const side = await openPair({ pages: rooms, prefill, decode })
    open.push(side)
    await runRooms(side, rooms, 3)
  },
)
