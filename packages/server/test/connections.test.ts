/** How long does a connection live, and what does a client that takes nothing cost? */
import { createConnection, type Socket } from 'node:net'
import { once } from 'node:events'
import { afterEach, expect, test } from 'vitest'
import { Registry } from 'prom-client'
import { json, listen, makeApp } from '../src/http/server.ts'
import type { Call } from '../src/worker/call.ts'
import { closeAll, send, startRouterApp, startWorkerApp } from './support/http.ts'

const sockets: Socket[] = []
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy()
  await closeAll()
})

/** A connection on which this has been written; nothing is read from it until somebody does. */
const closed = (socket: Socket) =>
  new Promise<void>((resolve) => {
    socket.once('close', () => {
      resolve()
    })
  })

async function connect(port: number, text = ''): Promise<Socket> {
  const socket = createConnection(port, '127.0.0.1')
  sockets.push(socket)
  socket.on('error', () => undefined)
  await once(socket, 'ready')
  if (text !== '') socket.write(text)
  return socket
}

const health = 'GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n'
const post = (body: string) =>
  `POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${String(body.length)}\r\n\r\n${body}`

/** The first bytes that come; the socket then goes on to read. */
const firstBytes = async (socket: Socket) => String(((await once(socket, 'data')) as [Buffer])[0])

test.each([
  ['worker', startWorkerApp],
  ['router', ({ http }: { http?: object }) => startRouterApp(http)],
])(
  'a %s keeps connections for longer than proxies do, or as long as it is told',
  async (_, start) => {
    const kept = async ({ port }: { port: number }) => firstBytes(await connect(port, health))
    expect(await kept(await start({}))).toMatch(/\r\nKeep-Alive: timeout=95\r\n/)
    expect(await kept(await start({ http: { keepAliveMs: 7_000 } }))).toMatch(/ timeout=7\r\n/)
  },
)

test.each(['::1', '[::1]'])(
  'a server listens on %s, which its address writes in brackets',
  async (host) => {
    const listening = await listen(
      makeApp(new Registry(), () => undefined),
      { host, port: 0 },
    )
    expect(listening.url).toBe(`http://[::1]:${String(listening.port)}`)
    expect((await send(`${listening.url}/metrics`)).status).toBe(200)
    await listening.close()
  },
)

test('a connection that waits for its next request is ended when its time is over', async () => {
  const { port } = await startWorkerApp({ http: { keepAliveMs: 50 } })
  const socket = await connect(port, health)
  expect(await firstBytes(socket)).toMatch(/^HTTP\/1\.1 200 /)
  await closed(socket)
})

test('a connection that says nothing, or never ends its headers, is ended', async () => {
  const { port } = await startWorkerApp({ limits: { headersMs: 50 } })
  for (const words of ['', 'GET /health HTTP/1.1\r\n']) {
    const socket = await connect(port, words)
    socket.resume()
    await closed(socket)
  }
})

test('when a server is about to end, connections end that wait, and others with their answer', async () => {
  let finish!: () => void
  const finished = new Promise<void>((resolve) => (finish = resolve))
  async function* slow() {
    yield 1
    await finished
    yield 2
  }
  const worker = await startWorkerApp({ answering: slow })
  const idle = await connect(worker.port, health)
  await firstBytes(idle)
  const busy = await connect(worker.port, post('{"prompt":[1],"stream":true}'))
  await firstBytes(busy)
  let text = ''
  busy.on('data', (more: Buffer) => (text += more.toString()))
  worker.endIdle()
  await closed(idle)
  expect(busy.closed).toBe(false)
  finish()
  await closed(busy)
  expect(text).toContain('data: [DONE]')
})

test('a router that drains ends its idle connections at once', async () => {
  const router = await startRouterApp()
  const idle = await connect(router.port, health)
  await firstBytes(idle)
  const drained = router.drain(60_000)
  await closed(idle)
  expect(await drained).toBe(true)
})

test('of more connections than there may be, those end first that wait for a request', async () => {
  const { port } = await startWorkerApp({ limits: { connections: 3 } })
  const idle = await connect(port, health)
  await firstBytes(idle)
  // These two have asked nothing yet.
  await connect(port)
  const fresh = await connect(port)
  await closed(idle)
  const third = await connect(port, health)
  expect(await firstBytes(third)).toMatch(/^HTTP\/1\.1 200 /)
  // Now all three might be about to ask or have just been answered; the one answered gives way.
  fresh.write(health)
  expect(await firstBytes(fresh)).toMatch(/^HTTP\/1\.1 200 /)
})

test('a connection beyond the greatest number is turned away at once', async () => {
  const { port } = await startWorkerApp({ limits: { connections: 2 } })
  const first = await connect(port)
  await connect(port)
  const late = await connect(port, health)
  await closed(late.resume())
  // The others are as they were.
  first.write(health)
  expect(await firstBytes(first)).toMatch(/^HTTP\/1\.1 200 /)
})

/** Tokens for ever, and when their request was given up. */
function endless() {
  let made = 0
  let given!: (made: number) => void
  const givenUp = new Promise<number>((resolve) => (given = resolve))
  async function* answering({ signal }: Call): AsyncGenerator<number, void> {
    try {
      for (;;) {
        signal.throwIfAborted()
        made++
        yield await Promise.resolve(made)
      }
    } finally {
      given(made)
    }
  }
  return { answering, givenUp }
}

test('a client that stops reading its stream costs bounded memory, and its request is given up', async () => {
  const { answering, givenUp } = endless()
  const worker = await startWorkerApp({ answering, limits: { clientStalledMs: 200 } })
  const socket = await connect(worker.port, post('{"prompt":[1],"stream":true}'))
  socket.pause()
  // Nothing but the buffers of both ends of the connection was filled: an event has some 180 bytes.
  expect(await givenUp).toBeLessThan(200_000)
  await expect
    .poll(async () => await worker.metrics.registry.getSingleMetricAsString('kvx_requests_total'))
    .toContain('kvx_requests_total{result="cancelled"} 1')
  expect(await worker.metrics.registry.getSingleMetricAsString('kvx_requests_live')).toMatch(/ 0$/)
})

test('a stream behind a router is given up too when its client stops reading', async () => {
  const { answering, givenUp } = endless()
  const router = await startRouterApp({}, { answering, limits: { clientStalledMs: 200 } })
  const socket = await connect(router.port, post('{"prompt":[1],"stream":true}'))
  socket.pause()
  expect(await givenUp).toBeLessThan(400_000)
})

test('an answer at once that its client does not take is given up', async () => {
  const app = makeApp(new Registry(), () => undefined)
  const size = 64 * 2 ** 20
  let tell!: () => void
  const over = new Promise<void>((resolve) => (tell = resolve))
  app.get('/large', (c) => {
    c.env.outgoing.once('close', tell)
    return json(c, 'x'.repeat(size))
  })
  const limits = { clientStalledMs: 200 }
  const listening = await listen(app, { host: '127.0.0.1', port: 0, limits })
  const socket = await connect(listening.port, 'GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n')
  socket.pause()
  await over
  // What the connection itself had room for still comes.
  let came = 0
  const end = closed(socket)
  socket.on('data', (more: Buffer) => (came += more.length)).resume()
  await end
  expect(came).toBeLessThan(size)
  await listening.close()
})

test('a request that takes long to answer is not given up while nothing waits to be read', async () => {
  let go!: () => void
  const gone = new Promise<void>((resolve) => (go = resolve))
  async function* late() {
    await gone
    yield 1
  }
  const worker = await startWorkerApp({ answering: late, limits: { clientStalledMs: 20 } })
  const answer = send(`${worker.url}/v1/completions`, {
    ...{ method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"prompt":[1]}' },
  })
  // Another connection outlives that time several times over.
  for (let i = 0; i < 3; i++) await closed((await connect(worker.port)).resume())
  go()
  expect((await answer).status).toBe(200)
})
