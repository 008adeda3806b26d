/**
 * Frames through real sockets into real managers: bytes of nobody before the handshake, and anything at all
 * from peers that hold the token. Afterwards a request between honest managers must still succeed.
 */
import { readInstance } from '@kvx/core'
import { FrameRandom } from '../random.ts'
import { BootstrapWorld } from '../worlds/bootstrap.ts'
import { PrefillWorld } from '../worlds/prefill.ts'
import { Deployment, openBootstrap, token } from './deployment.ts'
import { impostor } from './impostor.ts'
import { peer } from './peer.ts'
import { strangers } from './strangers.ts'

const mostStrangers = 5_000

/** @returns how many frames went where */
export async function fuzzSockets({
  seed,
  frames,
}: {
  seed: number
  frames: number
}): Promise<Record<string, number>> {
  if (frames === 0) return {}
  const random = new FrameRandom(seed ^ 0x5eed)
  const honest = await Deployment.open()
  await honest.request()
  const share = Math.floor(frames / 4)
  // Who has the token may register anything: the honest have a service of their own.
  const other = await openBootstrap()
  const prefill = await prefillEndpoint(honest.bootstrap.address)
  const both = [other.address, prefill]
  const counts = {
    'sockets: connections of strangers': await strangers(
      random,
      both,
      Math.min(share, mostStrangers),
    ),
    'sockets: frames of peers to the bootstrap service': await peer(
      random,
      other.address,
      new BootstrapWorld(random),
      share,
    ),
    'sockets: frames of peers to prefill': await peer(
      random,
      prefill,
      new PrefillWorld(random),
      share,
    ),
    'sockets: frames of a prefill to decode': await impostor(random, honest.decode, share),
  }
  await honest.request()
  await honest.close()
  await other.close()
  return counts
}

async function prefillEndpoint(bootstrap: string): Promise<string> {
  const { ranks } = await readInstance({ bootstrap, token, timeoutMs: 10_000 })
  return ranks[0]!.endpoint
}
