/** Does a decode worker tell its clients what there is at an address that has never shown the token? */
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { BootstrapServer, KVManager, type DecodeManager, type KVReceiver } from '@kvx/core'
import { silentLog, type Log } from '@kvx/contract'
import type { LlamaModel } from '@kvx/llama'
import { allocate } from '@kvx/native'
import { Admission } from '../src/http/drain.ts'
import { listen } from '../src/http/server.ts'
import { workerApp } from '../src/worker/app.ts'
import { receivePrompt } from '../src/worker/decode.ts'
import { EventLog } from '../src/worker/events.ts'
import { CachePools } from '../src/worker/cache-pools.ts'
import { LiveRequests } from '../src/worker/live.ts'
import { workerMetrics } from '../src/worker/metrics.ts'
import { PrefillHosts } from '../src/worker/prefill-hosts.ts'
import { Strangers } from '../src/worker/strangers.ts'
import { asJson, errorIn, send, type Answer } from './support/http.ts'
import { pageBytes, pages, place, shape } from './support/small-cache.ts'

const token = 'a token for tests'
const host = '127.0.0.1'
const model = {
  ...{ cache: { shape, place }, id: 'none', contextLength: 32, checkRequest: () => undefined },
  detokenizer: () => ({ push: () => '', flush: () => '' }),
} as unknown as LlamaModel

const open: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

const common = () => ({
  ...{ token, shape, place, memory: [allocate(2 * pages * pageBytes)], backend: 'shm' },
  from: import.meta.url,
})
const prefillManager = (bootstrap: string) =>
  KVManager.open({
    ...{ ...common(), role: 'prefill', instance: 'prefill-a', bootstrap },
    deadlines: { peerSilent: 2_000 },
  })
const decodeManager = () =>
  KVManager.open({
    ...{ ...common(), role: 'decode', instance: 'decode-a' },
    deadlines: { probe: 100, ping: 200, peerSilent: 2_000 },
  })

/** One pause of the worker: for how long it is asked, and when it is over. */
interface Pausing {
  readonly ms: number
  readonly end: () => void
}

/** A decode worker without its model, whose pauses end when the test says so. */
async function decodeWorker() {
  const decode = await decodeManager()
  open.push(() => decode.close())
  const pauses: Pausing[] = []
  /** Receivers of all requests that came so far as to be looked for. */
  const receivers: KVReceiver[] = []
  const reasons: string[] = []
  const log: Log = {
    ...silentLog,
    warn: (fields, text) => {
      reasons.push(`${text} ${String((fields as { reason?: unknown }).reason)}`)
    },
  }
  const strangers = new Strangers(
    (ms, signal) =>
      new Promise<void>((resolve, reject) => {
        pauses.push({ ms, end: resolve })
        signal.addEventListener('abort', () => {
          reject(signal.reason as Error)
        })
      }),
  )
  const watched = {
    ...{ engine: decode.engine },
    receive: (...request: Parameters<DecodeManager['receive']>) => {
      const receiver = decode.receive(...request)
      receivers.push(receiver)
      return receiver
    },
  } as unknown as DecodeManager
  const metrics = workerMetrics()
  const cachePools = new CachePools(model.cache)
  const side = { model, manager: watched, pools: cachePools, metrics, queueMs: 60_000, strangers }
  const hosts = new PrefillHosts(['127.0.0.0/8'], () => Promise.reject(new Error('ENOTFOUND')))
  const app = workerApp({
    ...{ model, modelName: 'none', metrics, log, info: {} },
    events: new EventLog(silentLog),
    live: new LiveRequests(),
    check: { run: () => Promise.resolve(undefined) },
    flush: () => undefined,
    modelPath: 'none.gguf',
    admission: new Admission('decode'),
    compute: {
      kind: 'answer',
      run: (call, use) => {
        const { room = 0n, host: named = '', port } = call.bootstrap
        const find = async () => `tcp://${await hosts.addressOf(named)}:${String(port)}`
        return receivePrompt(side, call, room, find, use)
      },
    },
  })
  const { url, close } = await listen(app, { host, port: 0 })
  open.push(close)
  let room = 0
  const ask = (port: number, { named = host, stream = false, inRoom = ++room } = {}) =>
    send(`${url}/v1/completions`, {
      method: 'POST',
      headers: asJson,
      body: JSON.stringify({
        ...{ prompt: [1, 2, 3, 4, 5], stream },
        ...{ bootstrap_host: named, bootstrap_port: port, bootstrap_room: inRoom },
      }),
    })
  return { url, ask, pauses, receivers, reasons }
}

async function port(server: Server): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    // Decode ends such connections as it likes.
    socket.on('error', () => undefined)
    sockets.add(socket)
  })
  server.listen(0, host)
  await once(server, 'listening')
  open.push(async () => {
    for (const socket of sockets) socket.destroy()
    if (server.listening) await new Promise((resolve) => server.close(resolve))
  })
  return (server.address() as AddressInfo).port
}

async function bootstrapOf(secret: string): Promise<BootstrapServer> {
  const server = await BootstrapServer.open({ host, port: 0, token: secret, log: silentLog })
  open.push(() => server.close())
  return server
}

async function closedPort(): Promise<number> {
  const server = createServer()
  const found = await port(server)
  server.close()
  await once(server, 'close')
  return found
}

/** Addresses at which no prefill is, and what the log says of each. */
const places: Record<string, () => Promise<{ port: number; named?: string; reason: RegExp }>> = {
  'a closed port': async () => ({ port: await closedPort(), reason: /Nothing answers/ }),
  'an open port that says nothing': async () => ({
    port: await port(createServer(() => undefined)),
    reason: /did not answer/,
  }),
  'an open port that hangs up': async () => ({
    port: await port(createServer((socket) => socket.destroy())),
    reason: /bootstrap service at/,
  }),
  'a web server': async () => ({
    port: await port(createHttpServer((_, response) => response.end('hello'))),
    reason: /is no kvx service/,
  }),
  'a bootstrap with another token': async () => ({
    port: (await bootstrapOf('another token for tests')).port,
    reason: /another token/,
  }),
  'a bootstrap without an instance': async () => ({
    port: (await bootstrapOf(token)).port,
    reason: /is not complete/,
  }),
  'a host that is not allowed': () =>
    Promise.resolve({ port: 80, named: '192.0.2.1', reason: /--prefill-hosts/ }),
  'a name that does not exist': () =>
    Promise.resolve({ port: 80, named: 'nowhere.example', reason: /--prefill-hosts/ }),
}

const told = ({ status, headers, body }: Answer) => {
  const lasting = Object.entries(headers).filter(([name]) => name !== 'date')
  return { status, headers: Object.fromEntries(lasting), body }
}

const until = async (holds: () => boolean) => {
  while (!holds()) await new Promise(setImmediate)
}

test.each(Object.keys(places))(
  '%s: the answer is that of every other stranger, streamed or not, and comes after the same time',
  async (what) => {
    const worker = await decodeWorker()
    const place = await places[what]?.()
    if (place === undefined) throw new Error(what)
    const named = place.named ?? host
    const answers: Answer[] = []
    for (const stream of [false, true]) {
      const asked = worker.receivers.length
      const answer = worker.ask(place.port, { named, stream })
      void answer.then((one) => answers.push(one))
      const before = answers.length
      await until(() => worker.pauses.length === 1)
      if (place.named === undefined) {
        // It has failed, and still nobody is told.
        await until(() => worker.receivers.length > asked)
        await expect(worker.receivers.at(-1)?.done).rejects.toThrow()
      }
      await send(`${worker.url}/health`)
      expect(answers).toHaveLength(before)
      const [pause] = worker.pauses.splice(0)
      expect(pause?.ms).toBe(10_000)
      pause?.end()
      await answer
      expect(worker.reasons.at(-1)).toMatch(place.reason)
    }
    for (const answer of answers) {
      expect(told(answer)).toStrictEqual({
        status: 503,
        headers: {
          ...{ 'content-type': 'application/json', 'retry-after': '1', connection: 'close' },
          'content-length': expect.any(String) as string,
        },
        body: JSON.stringify({
          error: {
            message:
              'No prefill worker of this deployment answers at the bootstrap_host and bootstrap_port of this request, or decode may not ask there: the log of the decode worker says what happened.',
            ...{ type: 'server_error', code: 'ERR_KVX_BOOTSTRAP_UNREACHABLE' },
            ...{ phase: 'bootstrap', peer: null, rank: null, retryable: true },
          },
        }),
      })
    }
    const { body } = await send(`${worker.url}/metrics`)
    expect(body).toContain('kvx_failures_total{code="ERR_KVX_BOOTSTRAP_UNREACHABLE"} 2')
    expect(body.match(/^kvx_failures_total\{/gm)).toHaveLength(1)
  },
)

test('who has not answered when the time is over is told as one that has failed', async () => {
  const worker = await decodeWorker()
  const silent = await port(createServer(() => undefined))
  const answer = worker.ask(silent)
  await until(() => worker.receivers.length === 1)
  worker.pauses[0]?.end()
  expect(errorIn(await answer).code).toBe('ERR_KVX_BOOTSTRAP_UNREACHABLE')
  await expect(worker.receivers[0]?.done).rejects.toMatchObject({
    message: expect.stringContaining('within 10000 ms') as string,
  })
})

test('the room of a request stays taken until its failure has been told', async () => {
  const worker = await decodeWorker()
  const closed = await closedPort()
  const first = worker.ask(closed, { inRoom: 77 })
  await until(() => worker.receivers.length === 1)
  await expect(worker.receivers[0]?.done).rejects.toThrow()
  // Wherever it is asked for: what is not allowed is not found out either.
  for (const named of [host, '192.0.2.1']) {
    expect((await worker.ask(closed, { inRoom: 77, named })).status).toBe(409)
  }
  worker.pauses[0]?.end()
  expect((await first).status).toBe(503)
  const again = worker.ask(closed, { inRoom: 77 })
  await until(() => worker.pauses.length === 2)
  worker.pauses[1]?.end()
  expect((await again).status).toBe(503)
})

test('a client that goes away ends its wait, and its room is free', async () => {
  const worker = await decodeWorker()
  const silent = await port(createServer(() => undefined))
  const client = new AbortController()
  const body = { prompt: [1], bootstrap_host: host, bootstrap_port: silent, bootstrap_room: 5 }
  const call = fetch(`${worker.url}/v1/completions`, {
    ...{ method: 'POST', headers: asJson, body: JSON.stringify(body), signal: client.signal },
  })
  await until(() => worker.receivers.length === 1)
  client.abort()
  await expect(call).rejects.toThrow()
  await expect(worker.receivers[0]?.done).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  const again = worker.ask(silent, { inRoom: 5 })
  await until(() => worker.pauses.length === 2)
  worker.pauses[1]?.end()
  expect((await again).status).toBe(503)
})

test('at most 64 strangers are asked at a time, and the one more gets the same answer', async () => {
  const worker = await decodeWorker()
  const silent = await port(createServer(() => undefined))
  const firsts = Array.from({ length: 64 }, (_, i) =>
    worker.ask(silent, { named: `127.0.1.${String(i + 1)}` }),
  )
  await until(() => worker.receivers.length === 64)
  const more = worker.ask(silent)
  await until(() => worker.pauses.length === 65)
  for (const { end } of worker.pauses) end()
  const answers = await Promise.all([...firsts, more])
  expect(new Set(answers.map((answer) => JSON.stringify(told(answer)))).size).toBe(1)
  expect(worker.receivers).toHaveLength(64)
  expect(worker.reasons.join('\n')).toContain('64 other addresses')
})

test('a prefill instance that has shown the token and then dies fails with what happened, at once', async () => {
  const worker = await decodeWorker()
  const bootstrap = await bootstrapOf(token)
  const prefill = await prefillManager(bootstrap.address)
  open.push(() => prefill.close())
  const first = worker.ask(bootstrap.port)
  await until(() => worker.receivers.length === 1)
  await worker.receivers[0]?.reached
  await prefill.close()
  await bootstrap.close()
  expect((await first).status).toBeGreaterThanOrEqual(500)
  const asked = worker.receivers.length
  const later = await worker.ask(bootstrap.port)
  expect(worker.receivers).toHaveLength(asked + 1)
  const { code, message } = errorIn(later)
  expect([
    'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    'ERR_KVX_PEER_LOST',
    'ERR_KVX_BOOTSTRAP_INCOMPLETE',
  ]).toContain(code)
  expect(message).toMatch(/prefill-a|127\.0\.0\.1/)
})
