/** Is a request that merely waits for its turn taken for one whose other side is dead, or the other way round? */
import { createServer, type ServerResponse } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { PagePool, promptDigest, type Deadlines } from '@kvx/core'
import type { PrefillState } from '@kvx/core/protocol'
import { fill, openPair, pageTokens } from '../../core/test/support/pair.ts'
import { Registry } from 'prom-client'
import { Admission } from '../src/http/drain.ts'
import { listen, makeApp } from '../src/http/server.ts'
import { startRouter } from '../src/index.ts'

const open: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

const short = { pairing: 1_000, progress: 1_000, peerSilent: 1_000, ping: 100, queue: 60_000 }

async function pair(change: Partial<Deadlines> = {}) {
  const { ping, ...both } = short
  const side = await openPair({
    prefill: { deadlines: { ...both, ...change } },
    decode: { deadlines: { ...both, ping, ...change } },
  })
  open.push(() => side.close())
  fill(side.prefillMemory, 7)
  return side
}

const digest = promptDigest([1])
const prompt = { tokens: pageTokens, digest }

function gate() {
  let opened!: () => void
  const promise = new Promise<void>((resolve) => (opened = resolve))
  return { promise, open: opened }
}

/** What a decode worker does: takes pages when prefill has answered and there are some. */
async function decodeLeg(side: Awaited<ReturnType<typeof pair>>, room: bigint, pool: PagePool) {
  const receiver = side.decode.receive(room, { from: side.from, ...prompt })
  await receiver.reached
  const lease = await pool.allocate(1, { timeoutMs: short.queue })
  await receiver.reserve({ pages: lease.pages })
  await receiver.done
  return lease
}

test('requests that queue at decode for longer than the pairing deadline all succeed', async () => {
  const side = await pair()
  const pool = new PagePool(1)
  const rooms = [1n, 2n, 3n, 4n]
  const decoding = rooms.map(async (room) => {
    const lease = await decodeLeg(side, room, pool)
    // While the answer is generated the next one waits: the last one for three times as long.
    const { promise, open: end } = gate()
    setTimeout(end, 0.7 * short.pairing)
    await promise
    lease.release()
  })
  const sending = rooms.map(async (room) => {
    const sender = side.prefill.send(room, prompt)
    await sender.reserved()
    await sender.write({ tokens: [0, pageTokens], pages: [Number(room)] })
    await sender.finish({ aux: { firstToken: 1 } })
  })
  await Promise.all([...decoding, ...sending])
})

test('a request that queues at prefill for longer than the progress deadline succeeds', async () => {
  const side = await pair()
  const decoding = decodeLeg(side, 1n, new PagePool(1))
  const sender = side.prefill.send(1n, prompt)
  await sender.reserved()
  sender.queued()
  const { promise, open: turn } = gate()
  setTimeout(turn, 2.5 * short.progress)
  await promise
  await sender.write({ tokens: [0, pageTokens], pages: [0] })
  await sender.finish({ aux: { firstToken: 1 } })
  await decoding
})

test('a prefill that has its turn and writes nothing is given up after the progress deadline', async () => {
  const side = await pair()
  const decoding = decodeLeg(side, 1n, new PagePool(1))
  const sender = side.prefill.send(1n, prompt)
  await sender.reserved()
  sender.queued()
  sender.started()
  await expect(decoding).rejects.toMatchObject({ code: 'ERR_KVX_TIMEOUT', phase: 'transfer' })
})

test('a decode that dies with a request in its queue is noticed, and the prefill leg fails with its name', async () => {
  const side = await pair({ pairing: 60_000 })
  const receiver = side.decode.receive(1n, { from: side.from, ...prompt })
  const sender = side.prefill.send(1n, prompt)
  await receiver.reached
  // Said once at least, so that prefill waits because of it.
  const { state } = side.prefill as unknown as { state: PrefillState }
  await expect.poll(() => [...state.senders.values()][0]?.queuedBy).toBeDefined()
  await side.decode.close()
  await expect(sender.reserved()).rejects.toMatchObject({
    code: 'ERR_KVX_PEER_LOST',
    peer: expect.stringContaining('decode') as string,
  })
})

/** A server with a bound that answers when the test lets it. */
async function bounded(most: number) {
  const app = makeApp(new Registry(), () => undefined)
  const admission = new Admission('decode worker', most)
  const answers = gate()
  const entered: (() => void)[] = []
  app.get('/health', (c) => c.json({}))
  app.get('/server_info', (c) => c.json({}))
  app.post('/v1/completions', (c) =>
    admission.run(c, async () => {
      entered.shift()?.()
      await answers.promise
      return c.json({ ok: true })
    }),
  )
  const listening = await listen(app, { host: '127.0.0.1', port: 0 })
  open.push(() => listening.close())
  return { url: listening.url, answers, entered }
}

const headers = { 'content-type': 'application/json' }
const post = (url: string) =>
  fetch(`${url}/v1/completions`, { method: 'POST', headers, body: '{}' })

test('a worker whose queue is full answers 429 and when to try again, and takes more once one has ended', async () => {
  const { url, answers, entered } = await bounded(2)
  const arrived = [gate(), gate()]
  entered.push(...arrived.map((one) => one.open))
  const running = [post(url), post(url)]
  await Promise.all(arrived.map(({ promise }) => promise))
  const refused = await post(url)
  expect(refused.status).toBe(429)
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
  expect(await refused.json()).toMatchObject({
    error: { code: 'ERR_KVX_OVER_LIMIT', type: 'rate_limit_error', retryable: true },
  })
  answers.open()
  for (const response of await Promise.all(running)) expect(response.status).toBe(200)
  await expect.poll(async () => (await post(url)).status).toBe(200)
})

test.each(['prefill', 'decode'] as const)(
  'when the queue of %s is full, the router ends the other leg and answers 429',
  async (role) => {
    const full = await bounded(0)
    const ended = gate()
    const other = createServer((request, response: ServerResponse) => {
      if (request.method === 'GET') {
        response.end('{}')
        return
      }
      response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders()
      response.once('close', ended.open)
    })
    other.listen(0, '127.0.0.1')
    await once(other, 'listening')
    open.push(async () => {
      other.closeAllConnections()
      await new Promise((resolve) => other.close(resolve))
    })
    const url = `http://127.0.0.1:${String((other.address() as AddressInfo).port)}`
    const [prefill, decode] = role === 'prefill' ? [full.url, url] : [url, full.url]
    const router = await startRouter({
      prefill: [{ url: prefill, bootstrapPort: 1 }],
      decode: [decode],
    })
    open.push(() => router.close())
    const response = await post(router.url)
    expect(response.status).toBe(429)
    expect(response.headers.get('retry-after')).toBe('1')
    expect(await response.json()).toMatchObject({ error: { code: 'ERR_KVX_OVER_LIMIT' } })
    await ended.promise
  },
)
