// A rank without a model, in a process of its own, in the middle of a request: prefill has written half of it, decode
// waits for it. argv: role, bootstrap. Also what both sides of the test agree on.
import { KVManager, promptDigest } from '@kvx/core'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'

export const token = 'a token for tests'
const room = 1n
const pageTokens = 16
const pages = 8
const pageBytes = 4096
const tensor = { layer: 0, part: 'latent' }
const half = Int32Array.of(0, 1, 2, 3)
const whole = Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7)
const request = {
  tokens: whole.length * pageTokens,
  digest: promptDigest(whole),
}

/** A manager whose every wait is longer than anybody waits. */
export async function openRank(role, bootstrap) {
  const day = 86_400_000
  const memory = allocate(pages * pageBytes)
  const manager = await KVManager.open({
    role,
    backend: shm,
    shape: {
      model: 'ranks',
      layers: 1,
      components: [
        {
          name: 'kv',
          addressed: 'tokens',
          tensors: [{ ...tensor, dtype: 'u8', units: 1, unitBytes: pageBytes / pageTokens }],
        },
      ],
    },
    place: {
      components: { kv: { pageTokens, pages } },
      tensors: [{ component: 'kv', ...tensor, region: 0, base: 0, pageBytes, order: 'NHD' }],
    },
    memory: [memory],
    token,
    bootstrap,
    deadlines: {
      ...{ hello: day, pairing: day, progress: day, linger: day, peerSilent: day },
      ...(role === 'prefill' ? { transfer: day } : { probe: day, reserve: day }),
    },
  })
  return { manager, memory }
}

export async function begin(manager) {
  const sender = manager.send(room, request)
  await sender.reserved()
  return sender
}

export async function awaitPages(manager, from) {
  const receiver = manager.receive(room, { ...request, from })
  await receiver.reserve({ pages: whole })
  return receiver
}

if (process.send !== undefined && import.meta.filename === process.argv[1]) {
  const [, , role, bootstrap] = process.argv
  const { manager } = await openRank(role, role === 'prefill' ? bootstrap : undefined)
  if (role === 'prefill')
    await (await begin(manager)).write({ tokens: [0, half.length * pageTokens], pages: half })
  else await awaitPages(manager, bootstrap)
  process.send('there')
}
