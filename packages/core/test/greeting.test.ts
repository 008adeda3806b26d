import { afterEach, expect, test } from 'vitest'
import { promptDigest } from '../src/shape/index.ts'
import { KVManager, type DecodeManager, type PrefillManager } from '../src/manager/index.ts'
import { BootstrapServer } from '../src/bootstrap/index.ts'
import { silentLog } from '@kvx/contract'
import { Loopback, plainMemory } from './support/loopback.ts'
import {
  chunkOf,
  openLegs,
  pageBytes,
  pageTokens,
  smallCache,
  token,
  type Cache,
} from './support/pair.ts'

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

/** A cache of one page, with keys and values of so many layers, which lie side by side or, `scattered`, anywhere. */
function deepCache(layers: number, scattered = false): Cache {
  const { shape, place } = smallCache(1)
  const [component] = shape.components
  const ofLayer = component!.tensors.slice(0, 2)
  const every = Array.from({ length: layers }, (_, layer) => layer)
  const tensors = every.flatMap((layer) => ofLayer.map((tensor) => ({ ...tensor, layer })))
  const room = scattered ? pageBytes * 2 : pageBytes
  return {
    shape: { ...shape, layers, components: [{ ...component!, tensors }] },
    place: {
      ...place,
      tensors: tensors.map(({ layer, part }, i) => ({
        ...{ component: 'kv', layer, part, region: 0, pageBytes, order: 'NHD' as const },
        base: i * room + (scattered ? (i * i) % pageBytes : 0),
      })),
    },
  }
}

function openManager<R extends 'prefill' | 'decode'>(
  role: R,
  layers: number,
  bootstrap: string,
  engine: Loopback,
  scattered = false,
): Promise<R extends 'prefill' ? PrefillManager : DecodeManager> {
  const cache = deepCache(layers, scattered)
  const common = {
    backend: engine.backend,
    ...cache,
    memory: [plainMemory(cache.place.tensors.length * 2 * pageBytes)],
    token,
  }
  return (
    role === 'prefill'
      ? KVManager.open({ ...common, role: 'prefill', bootstrap })
      : KVManager.open({ ...common, role: 'decode' })
  ) as Promise<R extends 'prefill' ? PrefillManager : DecodeManager>
}

async function openBootstrap(): Promise<BootstrapServer> {
  const server = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log: silentLog })
  open.push(server)
  return server
}

test.each(['prefill', 'decode'] as const)(
  'a %s manager with more tensors at uneven distances than its greeting can hold does not open, and says how many and what the limit is',
  async (role) => {
    const { address } = await openBootstrap()
    const engine = new Loopback()
    await expect(openManager(role, 5_000, address, engine, true)).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_OPTION',
      phase: 'open',
      message: expect.stringMatching(
        /The 10000 tensors of this rank do not fit.*may have 4194304 bytes.*A message of \d+ values exceeds the limit of 65536 values/,
      ) as string,
    })
    expect(engine.opened).toHaveLength(1)
    expect(engine.closed).toEqual(engine.opened)
  },
)

test('ten thousand layers at even distances take little of a greeting, and managers that open with them understand each other', async () => {
  const { address } = await openBootstrap()
  const engine = new Loopback()
  const prefill = await openManager('prefill', 10_000, address, engine)
  open.push(prefill)
  const decode = await openManager('decode', 10_000, address, engine)
  open.push(decode)
  const request = { tokens: pageTokens, digest: promptDigest([1, 2, 3, 4]) }
  const side = { prefill, decode, from: address }
  const { receiver, sender } = await openLegs(side, 1n, request, [0])
  await sender.write(chunkOf(pageTokens, 0, Int32Array.of(0)))
  await Promise.all([sender.finish(), receiver.done])
})
