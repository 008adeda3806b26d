/** What a load keeps when something goes wrong after it. */
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { runLoad } from '../src/load/run.ts'
import type { ServerProcess } from '../src/serving/launch.ts'

/** A worker or router that answers everything with one token, and has its pages free. */
async function answering(name: string): Promise<ServerProcess> {
  const server = createServer((request, response) => {
    request.resume()
    if (request.url === '/metrics') {
      response.end('kvx_pages{state="free"} 8\n')
      return
    }
    const events = [
      { choices: [{ text: 'a', token_ids: [1] }] },
      { choices: [], kvx: { prompt_tokens: 4 } },
    ]
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end(
      `${events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('')}data: [DONE]\n\n`,
    )
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  const ready = Promise.resolve({ url: `http://127.0.0.1:${String(port)}`, bootstrapPort: 1 })
  return {
    name,
    pid: undefined,
    ready,
    gone: Promise.resolve('ended'),
    stop: () => Promise.resolve(),
  }
}

test('a load is told although the process to compare its answers with does not start', async () => {
  const servers = new Map<string, ServerProcess>()
  for (const name of ['shm prefill', 'shm decode', 'shm router']) {
    servers.set(name, await answering(name))
  }
  const launch = (name: string): ServerProcess => {
    const ready = Promise.reject(new Error(`${name} ended before it was ready`))
    ready.catch(() => undefined)
    const gone = Promise.resolve('exit code 1')
    return servers.get(name) ?? { name, pid: undefined, ready, gone, stop: () => Promise.resolve() }
  }
  const result = await runLoad({
    ...{ launch, engine: { name: 'shm' }, model: 'any', rate: 100, concurrency: 4, seconds: 0.2 },
    ...{ input: 4, output: 1, maxRunningRequests: 4, maxQueuedRequests: 4, checkEvery: 1, seed: 1 },
  })
  expect(result.requests.length).toBeGreaterThan(0)
  expect(result.requests.every(({ outcome }) => outcome === 'ok')).toBe(true)
  expect(result).toMatchObject({
    leakedPages: 0,
    unchecked: result.requests.length,
    uncheckedReason: 'standalone ended before it was ready',
  })
})
