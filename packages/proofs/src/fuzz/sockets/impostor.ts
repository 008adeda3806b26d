import { Router } from 'zeromq'
import { registerRank, type DecodeManager } from '@kvx/core'
import { decodeFrame, deploymentKeys } from '@kvx/core/wire'
import { makeFrame } from '../frames/frame.ts'
import type { FrameRandom } from '../random.ts'
import { DecodeWorld } from '../worlds/decode.ts'
import { name128, rank } from '../worlds/fixtures.ts'
import { openBootstrap, prompt, token } from './deployment.ts'

/** When decode has given it up for good, there is nothing more to answer. */
const longestMs = 60_000
const answersPerFrame = 40

/**
 * Something that has registered as a prefill rank, and answers whatever decode says with anything.
 * @returns how many frames
 */
export async function impostor(
  random: FrameRandom,
  decode: DecodeManager,
  count: number,
): Promise<number> {
  const bootstrap = await openBootstrap()
  const socket = new Router({
    linger: 0,
    curveServer: true,
    curveSecretKey: deploymentKeys(token).server.secretKey,
  })
  await socket.bind('tcp://127.0.0.1:*')
  const incarnation = name128('P', 1)
  const endpoint = socket.lastEndpoint!
  const registration = await registerRank({
    bootstrap: bootstrap.address,
    token,
    record: { instance: 'impostor', incarnation, endpoint, rank, backend: 'nothing' },
  })
  let room = 2n ** 50n
  const asking = setInterval(() => {
    const receiver = decode.receive(room++, { ...prompt, from: bootstrap.address })
    receiver.reserve({ pages: Int32Array.of(2), state: { mamba: [] } }).catch(() => undefined)
    setTimeout(() => receiver.abort('enough'), 100)
  }, 10)
  const deadline = setTimeout(() => {
    socket.close()
  }, longestMs)
  const world = new DecodeWorld(random)
  let sent = 0
  for await (const [id, frame] of socket) {
    const [{ from: to, gen } = {}] = decodeFrame(frame!)
    world.turn()
    const templates = world.templates().map((message) => ({
      ...message,
      from: incarnation,
      to,
      ...('gen' in message && gen !== undefined ? { gen } : {}),
    }))
    // Each message of decode is answered by some; its own retries keep that going.
    for (let i = 0; i < answersPerFrame; i++, sent++) {
      await socket.send([id!, makeFrame(random, templates)]).catch(() => undefined)
    }
    if (sent >= count) break
  }
  clearTimeout(deadline)
  clearInterval(asking)
  socket.close()
  await registration.close()
  await bootstrap.close()
  return sent
}
