// Requests of managers whose ranks keep one half of the cache on a GPU and the other in memory of the host.
import { silentLog, type Memory } from '@kvx/contract'
import { BootstrapServer, KVManager, promptDigest } from '@kvx/core'
import { allocate } from '@kvx/native'
import shm from '@kvx/shm'
import { afterEach, beforeAll, expect, test } from 'vitest'
import { peek, poke, useFakeGpus } from './gpu.ts'

const token = 'a token for tests'
const pageTokens = 16
const pageBytes = 4096
const pages = 32
const regionBytes = pages * pageBytes
const closing: (() => unknown)[] = []

beforeAll(useFakeGpus)
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close()
})

const tensors = [0, 1].map((layer) => ({ layer, part: 'latent' }))
const shape = {
  model: 'both',
  layers: 2,
  components: [
    {
      ...{ name: 'kv', addressed: 'tokens' as const },
      tensors: tensors.map((tensor) => ({
        ...{ ...tensor, dtype: 'u8', units: 1, unitBytes: pageBytes / pageTokens },
      })),
    },
  ],
}
const place = {
  components: { kv: { pageTokens, pages } },
  tensors: tensors.map((tensor) => ({
    ...{ component: 'kv', ...tensor, region: tensor.layer, base: 0, pageBytes },
    order: 'NHD' as const,
  })),
}

async function memoryOf(places: readonly (number | 'cpu')[]): Promise<Memory[]> {
  const memory: Memory[] = []
  for (const where of places) {
    memory.push(
      where === 'cpu'
        ? allocate(regionBytes)
        : await allocate(regionBytes, { kind: 'cuda', device: where }),
    )
  }
  return memory
}

async function openSides(
  prefillPlaces: readonly (number | 'cpu')[],
  decodePlaces: readonly (number | 'cpu')[],
) {
  const bootstrap = await BootstrapServer.open({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
  })
  closing.push(() => bootstrap.close())
  const [from, to] = [await memoryOf(prefillPlaces), await memoryOf(decodePlaces)]
  const common = { backend: shm, shape, place, token }
  const prefill = await KVManager.open({
    ...{ ...common, role: 'prefill', memory: from, bootstrap: bootstrap.address },
  })
  closing.push(() => prefill.close())
  const decode = await KVManager.open({ ...common, role: 'decode', memory: to, verifyKV: true })
  closing.push(() => decode.close())
  return { prefill, decode, from, to, at: bootstrap.address }
}

for (const [name, prefillPlaces, decodePlaces] of [
  ['a GPU and the host to the host and a GPU', [0, 'cpu'], ['cpu', 1]],
  ['a GPU and the host to the same', [1, 'cpu'], [1, 'cpu']],
  ['two GPUs to the host', [0, 1], ['cpu', 'cpu']],
] as const) {
  test(`a prompt crosses from ${name}, after an event, and its digests agree`, async () => {
    const { prefill, decode, from, to, at } = await openSides(prefillPlaces, decodePlaces)
    for (const [i, { address }] of from.entries()) {
      poke(
        address,
        Buffer.from(Array.from({ length: regionBytes }, (_, at) => (at * 37 + i) % 251)),
      )
    }
    const tokens = 10 * pageTokens
    const request = { tokens, digest: promptDigest(Array.from({ length: tokens }, (_, i) => i)) }
    const source = Int32Array.of(4, 9, 1, 0, 31, 7, 8, 20, 21, 2)
    const destination = Int32Array.of(30, 3, 4, 5, 11, 1, 0, 17, 16, 9)
    const receiver = decode.receive(1n, { ...request, from: at })
    const sender = prefill.send(1n, request)
    await receiver.reserve({ pages: destination })
    await sender.reserved()
    // As the fake driver keeps an event: recorded once, and reached.
    const event = allocate(16)
    new BigUint64Array(event.view(0, 16).buffer, event.view(0, 16).byteOffset, 2).set([1n, 1n])
    await sender.write({
      ...{ tokens: [0, tokens], pages: source },
      after: { event: event.address },
    })
    await sender.finish()
    const { report } = await receiver.done
    expect(report).toMatchObject({ pages: 10, bytes: 20 * pageBytes })
    await Promise.all([sender.settled, receiver.settled])
    for (const region of [0, 1]) {
      const [here, there] = [from[region]?.address ?? 0n, to[region]?.address ?? 0n]
      for (const [i, page] of destination.entries()) {
        const landed = peek(there + BigInt(page * pageBytes), pageBytes)
        const sent = peek(here + BigInt((source[i] ?? 0) * pageBytes), pageBytes)
        expect(landed.equals(sent)).toBe(true)
      }
    }
  })
}
