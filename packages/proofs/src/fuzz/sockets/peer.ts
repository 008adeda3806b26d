import { setImmediate as nextTurn } from 'node:timers/promises'
import { Dealer } from 'zeromq'
import { deploymentKeys } from '@kvx/core/wire'
import { makeFrame } from '../frames/frame.ts'
import type { FrameRandom } from '../random.ts'
import type { World } from '../worlds/world.ts'
import { token } from './deployment.ts'

const framesPerConnection = 2_000
const framesPerTurn = 50

/**
 * A client with the right keys that sends anything. Now and then it goes and comes again.
 * @returns how many frames
 */
export async function peer(
  random: FrameRandom,
  endpoint: string,
  world: World,
  count: number,
): Promise<number> {
  const { client, server } = deploymentKeys(token)
  const keys = {
    curveServerKey: server.publicKey,
    curvePublicKey: client.publicKey,
    curveSecretKey: client.secretKey,
  }
  for (let sent = 0; sent < count;) {
    const socket = new Dealer({ linger: 1_000, sendHighWaterMark: 100, ...keys })
    const end = Math.min(count, sent + framesPerConnection)
    // What it is told must not fill its queue.
    const heard = countHeard(socket)
    socket.connect(endpoint)
    while (sent < end) {
      const templates = world.templates()
      for (let i = 0; i < framesPerTurn && sent < end; i++, sent++) {
        const frame = makeFrame(random, templates)
        await socket.send(random.chance(0.02) ? [frame, frame] : frame)
      }
      world.turn()
      await nextTurn()
    }
    socket.close()
    await heard
  }
  return count
}

async function countHeard(socket: Dealer): Promise<number> {
  let count = 0
  for await (const frames of socket) count += frames.length
  return count
}
