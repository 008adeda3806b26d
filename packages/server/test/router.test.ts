import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo } from 'node:net'
import { once } from 'node:events'
import { afterEach, expect, test } from 'vitest'
import { lastingPort } from '../../core/test/support/port.ts'
import { startRouter } from '../src/index.ts'

/** Real HTTP servers that play the workers: what a router does shows in what reaches them. */
type Handler = (body: string, response: ServerResponse, request: IncomingMessage) => void

interface WorkerOptions {
  info?: object
  health?: () => number | undefined
  port?: number
}

const open: (() => Promise<void>)[] = []
afterEach(async () => {
  await Promise.all(open.splice(0).map((close) => close()))
})

/** @param health the status with which it answers a question for its health; none: not at all */
async function worker(
  handler: Handler,
  { info = {}, health = () => 200, port = 0 }: WorkerOptions = {},
): Promise<string> {
  const server = createServer((request, response) => {
    if (request.method === 'GET') {
      const known = request.url === '/server_info' || request.url === '/health'
      const status = request.url === '/health' ? health() : known ? 200 : 404
      if (status === undefined) return
      response.writeHead(status, { 'content-type': 'application/json' })
      response.end(JSON.stringify(info))
      return
    }
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => {
      handler(body, response, request)
    })
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  open.push(async () => {
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  })
  return `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`
}

async function start(
  prefill: readonly string[],
  decode: readonly string[],
  options: { bootstrapPort?: number; workerSilentMs?: number; maxLocalPrefillLength?: number } = {},
) {
  const { bootstrapPort = 1, ...more } = options
  const router = await startRouter({
    prefill: prefill.map((url) => ({ url, bootstrapPort })),
    decode,
    ...more,
  })
  open.push(() => router.close())
  return router
}

async function route(
  prefill: readonly string[],
  decode: readonly string[],
  bootstrapPort?: number,
) {
  const router = await startRouter({
    prefill: prefill.map((url) => ({ url, bootstrapPort })),
    decode,
  })
  open.push(() => router.close())
  return router.url
}

const ask = (url: string, body: string, signal?: AbortSignal) =>
  fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
    ...(signal ? { signal } : {}),
  })

const errorJson = (message: string, code: string) =>
  JSON.stringify({ error: { message, type: 'server_error', code } })

const silent: Handler = () => undefined
const succeed: Handler = (_, response) => response.end('{}')

function deferred<T>() {
  let resolve!: (value: T) => void
  const promise = new Promise<T>((done) => (resolve = done))
  return { promise, resolve }
}

test('both legs get the same body with the bootstrap fields added and nothing else changed', async () => {
  const bodies: string[] = []
  const record: Handler = (body, response) => {
    bodies.push(body)
    response.end('{"ok":1}')
  }
  const url = await route([await worker(record)], [await worker(record)], 8998)
  const sent = '{"prompt":"x","temperature":0.10,"unknown":[1.0,12345678901234567890]}'
  await (await ask(url, sent)).text()
  expect(bodies).toHaveLength(2)
  expect(bodies[0]).toBe(bodies[1])
  const pattern =
    /^(.*),"bootstrap_host":"127\.0\.0\.1","bootstrap_port":8998,"bootstrap_room":(\d+)\}$/
  const [, rest, room] = pattern.exec(bodies[0] ?? '') ?? []
  expect(`${rest ?? ''}}`).toBe(sent)
  expect(BigInt(room ?? '-1')).toBeLessThan(2n ** 63n)
})

test('rooms of different requests differ, and a room the client made up is replaced', async () => {
  const rooms = new Set<string>()
  const record: Handler = (body, response) => {
    rooms.add(/"bootstrap_room":(\d+)/.exec(body)?.[1] ?? '')
    response.end('{}')
  }
  const url = await route([await worker(succeed)], [await worker(record)], 1)
  for (let i = 0; i < 5; i++) await (await ask(url, '{"prompt":"x","bootstrap_room":7}')).text()
  expect(rooms.size).toBe(5)
  expect(rooms.has('7')).toBe(false)
})

test('a prefill worker given without bootstrap port is asked for it', async () => {
  const seen = deferred<string>()
  const info = { disaggregation_mode: 'prefill', bootstrap_port: 4711 }
  const prefill = await worker(succeed, { info })
  const decode = await worker((body, response) => {
    seen.resolve(body)
    response.end('{}')
  })
  await (await ask(await route([prefill], [decode]), '{"prompt":"x"}')).text()
  expect(await seen.promise).toContain('"bootstrap_port":4711')
})

test("decode's answer reaches the client byte by byte as it comes, unchanged", async () => {
  const read = deferred<undefined>()
  const decode = await worker((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
    response.write('data: {"a":1}\n\n')
    void read.promise.then(() => response.end('data: [DONE]\n\n'))
  })
  const response = await ask(await route([await worker(succeed)], [decode], 1), '{}')
  expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  const text = async () => new TextDecoder().decode((await reader.read()).value)
  expect(await text()).toBe('data: {"a":1}\n\n')
  read.resolve(undefined) // decode goes on only after the client has read its first event
  expect(await text()).toBe('data: [DONE]\n\n')
})

test('a prefill failure reaches the client as it is while decode still waits, and decode is cancelled', async () => {
  const cancelled = deferred<boolean>()
  const decode = await worker((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.flushHeaders()
    response.once('close', () => {
      cancelled.resolve(true)
    })
  })
  const prefill = await worker((_, response) => {
    response.writeHead(409, { 'content-type': 'application/json' })
    response.end(errorJson('room taken', 'ERR_KVX_ROOM_IN_USE'))
  })
  const response = await ask(await route([prefill], [decode], 1), '{"stream":true}')
  expect(response.status).toBe(409)
  expect(await response.json()).toMatchObject({
    error: { message: 'room taken', code: 'ERR_KVX_ROOM_IN_USE' },
  })
  expect(await cancelled.promise).toBe(true)
})

test('a failure that prefill tells in its body, after its headers, reaches the client with its own status', async () => {
  const prefill = await worker((_, response) => {
    response.writeHead(200, { 'content-type': 'application/json' })
    response.flushHeaders()
    response.end(errorJson('decode did not come', 'ERR_KVX_TIMEOUT'))
  })
  const response = await ask(await route([prefill], [await worker(silent)], 1), '{}')
  expect(response.status).toBe(504)
  expect(await response.text()).toContain('decode did not come')
})

test('a decode failure reaches the client while prefill still works, and prefill is cancelled', async () => {
  const cancelled = deferred<boolean>()
  const prefill = await worker((_, response) => {
    response.once('close', () => {
      cancelled.resolve(true)
    })
  })
  const decode = await worker((_, response) => {
    response.writeHead(503)
    response.end(errorJson('nobody there', 'ERR_KVX_BOOTSTRAP_UNREACHABLE'))
  })
  const response = await ask(await route([prefill], [decode], 1), '{}')
  expect(response.status).toBe(503)
  expect(await response.text()).toContain('nobody there')
  expect(await cancelled.promise).toBe(true)
})

test('a stream whose first event is an error is answered with the status of that error', async () => {
  const decode = await worker((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(`data: ${errorJson('no such service', 'ERR_KVX_BOOTSTRAP_UNREACHABLE')}\n\n`)
    setImmediate(() => response.destroy())
  })
  const response = await ask(await route([await worker(silent)], [decode], 1), '{"stream":true}')
  expect(response.status).toBe(503)
  expect(await response.text()).toContain('no such service')
})

test('both legs are cancelled when the client goes away', async () => {
  const arrived = [deferred<boolean>(), deferred<boolean>()]
  const closed = [deferred<boolean>(), deferred<boolean>()]
  const wait =
    (i: number): Handler =>
    (_, response) => {
      arrived[i]?.resolve(true)
      response.once('close', () => closed[i]?.resolve(true))
    }
  const url = await route([await worker(wait(0))], [await worker(wait(1))], 1)
  const client = new AbortController()
  const request = ask(url, '{}', client.signal)
  await Promise.all(arrived.map(({ promise }) => promise))
  client.abort()
  await expect(request).rejects.toThrow()
  expect(await Promise.all(closed.map(({ promise }) => promise))).toEqual([true, true])
})

test('a decode that breaks off in its answer breaks off at the client too', async () => {
  const decode = await worker((_, response) => {
    response.write('data: {"a":1}\n\n', () => response.destroy())
  })
  const response = await ask(await route([await worker(succeed)], [decode], 1), '{}')
  await expect(response.text()).rejects.toThrow()
})

test('a worker that is not there is named', async () => {
  const gone = await worker(succeed)
  await open.pop()?.()
  const response = await ask(await route([await worker(silent)], [gone], 1), '{}')
  expect(response.status).toBe(503)
  expect(((await response.json()) as { error: { message: string } }).error.message).toContain(
    `The decode worker at ${gone} could not be reached`,
  )
})

test('requests in flight decide who gets the next one', async () => {
  const hits = [0, 0]
  const held: ServerResponse[] = []
  const first = deferred<undefined>()
  const decodes = [
    await worker((_, response) => {
      hits[0] = (hits[0] ?? 0) + 1
      held.push(response)
      first.resolve(undefined)
    }),
    await worker((_, response) => {
      hits[1] = (hits[1] ?? 0) + 1
      response.end('{}')
    }),
  ]
  const url = await route([await worker(succeed)], decodes, 1)
  const stuck = ask(url, '{}')
  await first.promise
  for (let i = 0; i < 4; i++) await (await ask(url, '{}')).text()
  expect(hits).toEqual([1, 4])
  held[0]?.end('{}')
  await (await stuck).text()
})

test.each([
  ['POST', '/v1/chat', '{}', 404],
  ['GET', '/v1/completions', undefined, 405],
  ['POST', '/v1/completions', '{"prompt"', 400],
  ['POST', '/v1/completions', '[]', 400],
  ['POST', '/v1/completions', ' '.repeat(5 * 2 ** 20), 413],
])(
  '%s %s with a bad request is answered as JSON with status',
  async (method, path, body, status) => {
    const url = await route([await worker(silent)], [await worker(silent)], 1)
    const headers = { 'content-type': 'application/json' }
    const response = await fetch(url + path, {
      ...{ method, headers },
      ...(body === undefined ? {} : { body }),
    })
    expect(response.status).toBe(status)
    const { error } = (await response.json()) as { error: Record<string, unknown> }
    expect(Object.keys(error).sort()).toEqual([
      ...['code', 'message', 'peer', 'phase', 'rank', 'retryable', 'type'],
    ])
  },
)

test('health asks every worker and needs one of each role', async () => {
  const prefill = await worker(silent)
  const gone = await worker(silent)
  const lastOpened = open.pop()
  const url = await route([prefill], [gone], 1)
  expect((await fetch(`${url}/health`)).status).toBe(200)
  await lastOpened?.()
  const response = await fetch(`${url}/health`)
  expect(response.status).toBe(503)
  expect(await response.json()).toEqual({
    status: 'unavailable',
    workers: [
      { role: 'prefill', url: prefill, healthy: true },
      { role: 'decode', url: gone, healthy: false },
    ],
  })
})

test('a port that is in use is named', async () => {
  const taken = await worker(silent)
  await expect(
    startRouter({ prefill: [{ url: taken }], decode: [taken], port: Number(new URL(taken).port) }),
  ).rejects.toMatchObject({
    code: 'ERR_KVX_ADDRESS_UNAVAILABLE',
    message: expect.stringContaining('is in use by another process') as string,
  })
})

const draining = { message: 'ending', type: 'server_error', code: 'ERR_KVX_DRAINING' }
const refuse =
  (error: object): Handler =>
  (_, response) => {
    response.writeHead(503, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ error }))
  }

/** A worker that succeeds and counts what it was asked. */
async function counting(options: WorkerOptions = {}) {
  const counted = { hits: 0, url: '' }
  counted.url = await worker((_, response) => {
    counted.hits++
    response.end('{}')
  }, options)
  return counted
}

/** An address at which nothing listens. */
async function nowhere(): Promise<string> {
  return `http://127.0.0.1:${String(await lastingPort())}`
}

test('what a worker tells of its failure reaches the client whole', async () => {
  const error = {
    ...{ message: 'lost it', type: 'server_error', code: 'ERR_KVX_PEER_LOST', phase: 'transfer' },
    ...{ peer: 'decode-1 at tcp://127.0.0.1:7', rank: 'tp0/pp0/cp0/dp0', retryable: true },
  }
  const url = await route([await worker(refuse(error))], [await worker(silent)], 1)
  const response = await ask(url, '{}')
  expect(response.status).toBe(503)
  expect(response.headers.get('retry-after')).toBe('1')
  expect(await response.json()).toEqual({ error })
})

test('a worker that breaks off is named, with what it was doing', async () => {
  const prefill = await worker((_, response) => response.destroy())
  const url = await route([prefill], [await worker(silent)], 1)
  const response = await ask(url, '{}')
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({
    error: {
      ...{ code: 'ERR_KVX_PEER_LOST', phase: 'transfer', peer: prefill, retryable: true },
      message: expect.stringContaining(`The prefill worker at ${prefill} broke off`) as string,
    },
  })
})

test.each(['prefill', 'decode'])(
  'when a %s worker is not there, another one gets the request, and the next ones at once',
  async (role) => {
    const [gone, well, other] = [await nowhere(), await counting(), await counting()]
    const pair = [gone, well.url]
    const url =
      role === 'prefill' ? await route(pair, [other.url], 1) : await route([other.url], pair, 1)
    for (let i = 0; i < 4; i++) expect((await ask(url, '{}')).status).toBe(200)
    expect(well.hits).toBe(4)
    const text = await (await fetch(`${url}/metrics`)).text()
    expect(text).toMatch(/^kvx_router_retries_total [01]$/m)
  },
)

test.each([
  ['the worker that is about to end itself', 'decode', draining],
  ['its partner that was told so', 'prefill', { ...draining, peer: 'decode-1', phase: 'reserve' }],
])('a request refused by %s goes to another pair', async (_, teller, error) => {
  // The first decode worker is the one that ends, whoever says it.
  let hasRefused = false
  const ending = await worker(
    (body, response, request) => {
      hasRefused = true
      if (teller === 'decode') refuse(error)(body, response, request)
    },
    { health: () => (hasRefused ? 503 : 200) },
  )
  const other = await counting()
  let first = true
  const prefill = await worker((body, response, request) => {
    const tells = teller === 'prefill' && first
    first = false
    if (tells) {
      hasRefused = true
      refuse(error)(body, response, request)
    } else response.end('{}')
  })
  const url = await route([prefill], [ending, other.url], 1)
  expect((await ask(url, '{}')).status).toBe(200)
  expect(other.hits).toBe(1)
})

test('a request of which the client has seen nothing goes to another pair when its worker breaks off', async () => {
  const other = await counting()
  const broken = await worker((_, response) => response.destroy())
  const url = await route([await worker(succeed)], [broken, other.url], 1)
  for (let i = 0; i < 2; i++) expect((await ask(url, '{}')).status).toBe(200)
  expect(other.hits).toBe(2)
  expect(await (await fetch(`${url}/metrics`)).text()).toMatch(/^kvx_router_retries_total [12]$/m)
})

test('a request that ends whoever takes it is taken by three workers at most', async () => {
  let taken = 0
  const fatal: Handler = (_, response) => {
    taken++
    response.destroy()
  }
  const decodes = await Promise.all(Array.from({ length: 5 }, () => worker(fatal)))
  const response = await ask(await route([await worker(silent)], decodes, 1), '{}')
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({ error: { code: 'ERR_KVX_PEER_LOST' } })
  expect(taken).toBe(3)
})

test('a request of which the client has seen something is not sent again', async () => {
  const other = await counting()
  const broken = await worker((_, response) => {
    response.write('data: {"a":1}\n\n', () => response.destroy())
  })
  const url = await route([await worker(succeed)], [broken, other.url], 1)
  const response = await ask(url, '{}')
  await expect(response.text()).rejects.toThrow()
  expect(other.hits).toBe(0)
})

test('of a failure that names a peer the peer is left out when the request is tried again, and one that took its time is final', async () => {
  const lost = {
    message: 'lost',
    type: 'server_error',
    code: 'ERR_KVX_PEER_LOST',
    peer: 'decode-1',
  }
  const other = await counting()
  let first = true
  const prefill = await worker((body, response, request) => {
    if (first) refuse(lost)(body, response, request)
    else response.end('{}')
    first = false
  })
  const url = await route([prefill], [await worker(silent), other.url], 1)
  expect((await ask(url, '{}')).status).toBe(200)
  expect(other.hits).toBe(1)

  const late = await worker((_, response) => {
    response.writeHead(504, { 'content-type': 'application/json' })
    response.end(errorJson('too late', 'ERR_KVX_TIMEOUT'))
  })
  const slow = await route([await worker(succeed)], [late, other.url], 1)
  expect((await ask(slow, '{}')).status).toBe(504)
  expect(other.hits).toBe(1)
})

test('when every worker of a role refuses, the client is told why, once each was tried', async () => {
  const hits: string[] = []
  const ending =
    (name: string): Handler =>
    (body, response, request) => {
      hits.push(name)
      refuse(draining)(body, response, request)
    }
  const decodes = [await worker(ending('a')), await worker(ending('b'))]
  const response = await ask(await route([await worker(silent)], decodes, 1), '{}')
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({ error: { code: 'ERR_KVX_DRAINING' } })
  expect(hits.sort()).toEqual(['a', 'b'])
})

test('when the workers of a role have as many requests as they take, one more is refused before any of it is sent', async () => {
  const held = deferred<ServerResponse>()
  const prefills = await counting()
  const info = { max_running_requests: 1, max_queued_requests: 0 }
  const decode = await worker((_, response) => held.resolve(response), { info })
  const url = await route([prefills.url], [decode], 1)
  const running = ask(url, '{}')
  const answer = await held.promise
  const refused = await ask(url, '{}')
  expect(refused.status).toBe(429)
  expect(refused.headers.get('retry-after')).toBe('1')
  expect(await refused.json()).toMatchObject({
    error: { code: 'ERR_KVX_OVER_LIMIT', message: expect.stringContaining('All decode') as string },
  })
  expect(prefills.hits).toBe(1)
  answer.end('{}')
  expect((await running).status).toBe(200)
})

test('a prompt that decode does alone is taken while all prefill workers have as many requests as they take', async () => {
  const held = deferred<ServerResponse>()
  const info = { max_running_requests: 1, max_queued_requests: 0 }
  const prefill = await worker((_, response) => held.resolve(response), { info })
  const alone: boolean[] = []
  const decode = await worker((body, response) => {
    const isPair = body.includes('bootstrap_room')
    if (!isPair) response.end('{"alone":1}')
    alone.push(!isPair)
  })
  const { url } = await start([prefill], [decode], { maxLocalPrefillLength: 10 })
  const long = JSON.stringify({ prompt: Array.from({ length: 11 }, () => 1) })
  const abort = new AbortController()
  const running = ask(url, long, abort.signal)
  await held.promise
  expect((await ask(url, long)).status).toBe(429)
  const short = await ask(url, '{"prompt":[1,2,3]}')
  expect(await short.json()).toEqual({ alone: 1 })
  expect(alone).toEqual([false, true])
  abort.abort()
  await expect(running).rejects.toThrow()
})

test('a request that a worker refuses with 429 goes to another one, and the last refusal to the client', async () => {
  const full: Handler = (_, response) => {
    response.writeHead(429, { 'content-type': 'application/json' })
    response.end(errorJson('full', 'ERR_KVX_OVER_LIMIT'))
  }
  const other = await counting()
  const url = await route([await worker(succeed)], [await worker(full), other.url], 1)
  for (let i = 0; i < 2; i++) expect((await ask(url, '{}')).status).toBe(200)
  expect(other.hits).toBe(2)
  const none = await ask(await route([await worker(succeed)], [await worker(full)], 1), '{}')
  expect(none.status).toBe(429)
})

test('a worker that was not there is used again once it is', async () => {
  const gone = await nowhere()
  const other = await counting()
  const url = await route([await worker(succeed)], [gone, other.url], 1)
  await (await ask(url, '{}')).text()
  await (await ask(url, '{}')).text()
  const asked = deferred<undefined>()
  const back = await counting({
    port: Number(new URL(gone).port),
    health: () => {
      asked.resolve(undefined)
      return 200
    },
  })
  // The router looks for it by itself; until then the other one is preferred.
  await asked.promise
  await expect
    .poll(
      async () => {
        await (await ask(url, '{}')).text()
        return back.hits
      },
      { timeout: 60_000 },
    )
    .toBeGreaterThan(0)
})

test('a worker that falls silent while it works is given up, and its requests are told', async () => {
  const frozen = await worker(silent, { health: () => undefined })
  const { url } = await start([await worker(succeed)], [frozen], { workerSilentMs: 100 })
  const response = await ask(url, '{}')
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({
    error: {
      code: 'ERR_KVX_PEER_LOST',
      message: `The decode worker at ${frozen} has not answered for 0.1 s.`,
      phase: 'decode',
      peer: frozen,
    },
  })
})

test('a slow answer is waited for while the worker shows that it lives', async () => {
  let looks = 0
  const held: ServerResponse[] = []
  const slow = await worker((_, response) => held.push(response), {
    health: () => {
      // After so many looks it would have been given up several times over.
      if (++looks === 12) held[0]?.end('{"slow":true}')
      return 200
    },
  })
  const { url } = await start([await worker(succeed)], [slow], { workerSilentMs: 2_000 })
  expect(await (await ask(url, '{}')).text()).toBe('{"slow":true}')
})

test('a router that drains lets what runs end, refuses what is new, and then is idle', async () => {
  const arrived = deferred<ServerResponse>()
  const decode = await worker((_, response) => {
    response.write('data: 1\n\n')
    arrived.resolve(response)
  })
  const router = await start([await worker(succeed)], [decode])
  const running = ask(router.url, '{}')
  const answer = await arrived.promise
  const idle = router.drain(60_000)
  const late = await ask(router.url, '{}')
  expect(late.status).toBe(503)
  expect(late.headers.get('retry-after')).toBe('1')
  expect(await late.json()).toMatchObject({
    error: { code: 'ERR_KVX_DRAINING', retryable: true, peer: null },
  })
  const health = await fetch(`${router.url}/health`)
  expect(health.status).toBe(503)
  expect(await health.json()).toMatchObject({ status: 'draining' })
  answer.end('data: 2\n\n')
  expect(await (await running).text()).toBe('data: 1\n\ndata: 2\n\n')
  expect(await idle).toBe(true)
})

test('a drain ends at its deadline', async () => {
  const arrived = deferred<undefined>()
  const decode = await worker(() => {
    arrived.resolve(undefined)
  })
  const router = await start([await worker(silent)], [decode])
  const running = ask(router.url, '{}')
  await arrived.promise
  expect(await router.drain(20)).toBe(false)
  await router.close()
  await expect(running).rejects.toThrow()
})

/** Status and text of an answer, asked for without `fetch`, whose own limits a test may have changed. */
function post(url: string, body = '{}'): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      `${url}/v1/completions`,
      { method: 'POST', headers: { 'content-type': 'application/json' } },
      (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => (text += chunk))
        response.on('error', reject)
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, text })
        })
      },
    )
    request.on('error', reject)
    request.end(body)
  })
}

/** Writes an answer one byte at a time, each in a packet of its own. */
async function byteByByte(response: ServerResponse, text: string): Promise<void> {
  response.socket?.setNoDelay()
  for (const byte of Buffer.from(text)) {
    await new Promise((written) => response.write(Uint8Array.of(byte), written))
    await new Promise((turn) => setImmediate(turn))
  }
}

test('an error as first event is found however the stream is cut, also within a character', async () => {
  const message = 'kein Prefill da: 没有 🙁'
  const decode = await worker((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
    const event = `: a comment\n\ndata: ${errorJson(message, 'ERR_KVX_BOOTSTRAP_UNREACHABLE')}\n\n`
    void byteByByte(response, event)
  })
  const response = await ask(await route([await worker(silent)], [decode], 1), '{"stream":true}')
  expect(response.status).toBe(503)
  expect(await response.json()).toMatchObject({ error: { message } })
})

test('a stream that is cut anywhere arrives byte for byte, also when error is a word in it', async () => {
  const text = 'data: {"text":"{\\"error\\":"}\n\ndata: {"error":"Übel 🙁"}\r\n\r\ndata: [DONE]\n\n'
  const decode = await worker((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    void byteByByte(response, text).then(() => response.end())
  })
  const answer = await post(await route([await worker(succeed)], [decode], 1))
  expect(answer).toEqual({ status: 200, text })
})

test('a stream without an event is passed on as it is', async () => {
  const decode = await worker((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.end('data: never ended')
  })
  const answer = await post(await route([await worker(succeed)], [decode], 1))
  expect(answer).toEqual({ status: 200, text: 'data: never ended' })
})

test('a client that reads slowly gets all of a long answer, and leaves no listener behind', async () => {
  const warnings: Error[] = []
  const onWarning = (warning: Error) => warnings.push(warning)
  process.on('warning', onWarning)
  const piece = Buffer.alloc(64 * 1024, 'x')
  const pieces = 400
  const decode = await worker((_, response) => {
    const write = (left: number): void => {
      if (left === 0) response.end()
      else response.write(piece, () => write(left - 1))
    }
    write(pieces)
  })
  try {
    const response = await ask(await route([await worker(succeed)], [decode], 1), '{}')
    let bytes = 0
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      bytes += chunk.byteLength
      await new Promise((turn) => setTimeout(turn, 1))
    }
    expect(bytes).toBe(pieces * piece.byteLength)
    expect(warnings).toEqual([])
  } finally {
    process.off('warning', onWarning)
  }
})

test("a leg that queues for longer than fetch's own limits is waited for", async () => {
  await fetch(await worker(succeed)) // Node makes its dispatcher with the first call.
  const key = Symbol.for('undici.globalDispatcher.1')
  const globals = globalThis as unknown as Record<symbol, { close(): Promise<void> }>
  const before = globals[key]
  const Agent = before?.constructor as new (options: object) => { close(): Promise<void> }
  const hurried = new Agent({ headersTimeout: 100, bodyTimeout: 100 })
  globals[key] = hurried
  try {
    // 300 s as a rule; here they are over after about one, and the legs answer later.
    const queue: Handler = (_, response) => {
      setTimeout(() => response.end('{"queued":true}'), 3_000)
    }
    const router = await route([await worker(queue)], [await worker(queue)], 1)
    expect(await post(router)).toEqual({ status: 200, text: '{"queued":true}' })
  } finally {
    if (before) globals[key] = before
    await hurried.close()
  }
})
