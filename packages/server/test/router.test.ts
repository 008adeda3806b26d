import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { once } from 'node:events'
import { afterEach, expect, test } from 'vitest'
import { startRouter } from '../src/index.ts'

/** Real HTTP servers that play the workers: what a router does shows in what reaches them. */
type Handler = (body: string, response: ServerResponse, request: IncomingMessage) => void

const open: (() => Promise<void>)[] = []
afterEach(async () => {
  await Promise.all(open.splice(0).map((close) => close()))
})

async function worker(handler: Handler, info: object = {}): Promise<string> {
  const server = createServer((request, response) => {
    if (request.method === 'GET') {
      const known = request.url === '/server_info' || request.url === '/health'
      response.writeHead(known ? 200 : 404, { 'content-type': 'application/json' })
      response.end(JSON.stringify(info))
      return
    }
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => {
      handler(body, response, request)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  open.push(async () => {
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  })
  return `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`
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
  fetch(`${url}/v1/completions`, { method: 'POST', body, ...(signal ? { signal } : {}) })

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
  const prefill = await worker(succeed, { disaggregation_mode: 'prefill', bootstrap_port: 4711 })
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
  ['POST', '/v1/chat/completions', '{}', 404],
  ['GET', '/v1/completions', undefined, 404],
  ['POST', '/v1/completions', '{"prompt"', 400],
  ['POST', '/v1/completions', '[]', 400],
  ['POST', '/v1/completions', ' '.repeat(5 * 2 ** 20), 413],
])(
  '%s %s with a bad request is answered as JSON with status',
  async (method, path, body, status) => {
    const url = await route([await worker(silent)], [await worker(silent)], 1)
    const response = await fetch(url + path, { method, ...(body === undefined ? {} : { body }) })
    expect(response.status).toBe(status)
    const { error } = (await response.json()) as { error: Record<string, unknown> }
    expect(Object.keys(error).sort()).toEqual(['code', 'message', 'type'])
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
