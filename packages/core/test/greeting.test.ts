import { afterEach, expect, test } from 'vitest'
import { promptDigest, type Layout } from '../src/layout/index.ts'
import { KVManager } from '../src/manager/index.ts'
import { BootstrapServer } from '../src/bootstrap/index.ts'
import { silentLog } from '@kvx/contract'
import { Loopback } from './support/loopback.ts'
import { memoryFor, openLegs, pageBytes, pageTokens, smallLayout, token } from './support/pair.ts'

const open: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
})

/** A cache of one page, with keys and values of so many layers. */
function deepLayout(layers: number): Layout {
  const ofLayer = smallLayout(1).tensors.slice(0, 2)
  const tensors = Array.from({ length: layers }, (_, layer) =>
    ofLayer.map((tensor, i) => ({
      ...tensor,
      layer,
      base: (2 * layer + i) * pageBytes,
    })),
  ).flat()
  return { ...smallLayout(1), layers, tensors }
}

function openManager(
  role: 'prefill' | 'decode',
  layers: number,
  bootstrap: string,
  engine: Loopback,
): Promise<KVManager> {
  const layout = deepLayout(layers)
  return KVManager.open({
    role,
    backend: engine.backend,
    layout,
    memory: [memoryFor(layout)],
    token,
    ...(role === 'prefill' ? { bootstrap } : {}),
  })
}

async function openBootstrap(): Promise<BootstrapServer> {
  const server = await BootstrapServer.open({ host: '127.0.0.1', port: 0, token, log: silentLog })
  open.push(server)
  return server
}

test.each(['prefill', 'decode'] as const)(
  'a %s manager with more tensors than its greeting can hold does not open, and says how many and what the limit is',
  async (role) => {
    const { address } = await openBootstrap()
    const engine = new Loopback()
    await expect(openManager(role, 1_500, address, engine)).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_OPTION',
      phase: 'open',
      message: expect.stringMatching(
        /'layout' has 3000 tensors.*may have 4194304 bytes.*A message of \d+ values exceeds the limit of 65536 values/,
      ) as string,
    })
    expect(engine.opened).toHaveLength(1)
    expect(engine.closed).toEqual(engine.opened)
  },
)

test('managers that open with many tensors understand each other', async () => {
  const { address } = await openBootstrap()
  const engine = new Loopback()
  const prefill = await openManager('prefill', 1_400, address, engine)
  open.push(prefill)
  const decode = await openManager('decode', 1_400, address, engine)
  open.push(decode)
  const request = { tokens: pageTokens, digest: promptDigest([1, 2, 3, 4]) }
  const side = { prefill, decode, from: address }
  const { receiver, sender } = await openLegs(side, 1n, request, [0])
  await sender.write({ start: 0, pages: Int32Array.of(0) })
  await Promise.all([sender.finish(), receiver.done])
})
