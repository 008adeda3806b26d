import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeAll, expect, test, vi } from 'vitest'
import { installMooncake, loopback, openEngine, Peer } from './peer.ts'
import { allocate } from '@kvx/native'
import { scattered } from './plans.ts'

vi.setConfig({ testTimeout: 60_000 })
beforeAll(installMooncake, 300_000)
afterEach(() => {
  vi.unstubAllEnvs()
})

/** What Mooncake asks of its HTTP metadata server: values by `?key=`. */
async function metadataServer() {
  const values = new Map<string, Buffer>()
  const server = createServer((request, response) => {
    const key = new URL(request.url ?? '', 'http://server').searchParams.get('key') ?? ''
    const body: Buffer[] = []
    request.on('data', (part: Buffer) => body.push(part))
    request.on('end', () => {
      const known = values.get(key)
      if (request.method === 'PUT') values.set(key, Buffer.concat(body))
      else if (request.method === 'DELETE') values.delete(key)
      else if (known === undefined) response.statusCode = 404
      response.end(request.method === 'GET' ? known : undefined)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return { values, server, url: `http://127.0.0.1:${String(port)}/metadata` }
}

test('two processes find each other through an http metadata server, which is left as it was', async () => {
  // Without it Mooncake advertises the first network address of the machine.
  vi.stubEnv('MC_TCP_BIND_ADDRESS', '127.0.0.1')
  const { values, server, url } = await metadataServer()
  const size = 2 ** 20
  const options = { ...loopback, metadataServer: url }
  await using peer = new Peer(size)
  const target = await peer.open(options)
  const engine = await openEngine(options)
  expect([...values.keys()].filter((key) => key.startsWith('mooncake/ram/'))).toHaveLength(2)

  const memory = allocate(size)
  memory.view(0, size).fill(3)
  await engine.register(memory)
  const link = await engine.connect(target)
  await link.write(scattered(16, size / 16, (page) => 15 - page)).done
  expect(await peer.ask('others', { value: 3 })).toBe(0)
  await engine.close()
  await peer.ask('close')
  expect([...values.keys()]).toEqual([])
  server.close()
})
