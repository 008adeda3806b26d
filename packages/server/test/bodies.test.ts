/** What of a request's body is read, how much of it, and for how long? */
import { createConnection } from 'node:net'
import { once } from 'node:events'
import { gzipSync } from 'node:zlib'
import { afterEach, expect, test } from 'vitest'
import { Registry } from 'prom-client'
import type { BodyLimits } from '../src/http/body.ts'
import { json, listen, makeApp } from '../src/http/server.ts'
import {
  closeAll,
  complete,
  errorIn,
  send,
  startRouterApp,
  startWorkerApp,
} from './support/http.ts'

const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
  await closeAll()
})

const body = '{"prompt":[1,2],"max_tokens":2}'

/** A server that answers the length of what is posted to it, once `answered` has resolved. */
async function reader(limits: Partial<BodyLimits>, answered: Promise<void> = Promise.resolve()) {
  const codes: string[] = []
  const app = makeApp(new Registry(), (code) => codes.push(code), limits)
  app.post('/v1/completions', async (c) => {
    const { length } = await c.var.text()
    await answered
    return json(c, { length })
  })
  const listening = await listen(app, { host: '127.0.0.1', port: 0 })
  closers.push(() => listening.close())
  return { ...listening, codes }
}

/** Opens a request of this length and sends only a part of it; everything that comes back until the end. */
async function begin(port: number, part: string, framing = 'content-length: 1000') {
  const socket = createConnection(port, '127.0.0.1')
  const head = 'POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json'
  socket.write(`${head}\r\n${framing}\r\n\r\n${part}`)
  let text = ''
  socket.setEncoding('latin1').on('data', (more: string) => (text += more))
  socket.on('error', () => undefined)
  const ended = new Promise<string>((resolve) => {
    socket.once('close', () => {
      resolve(text)
    })
  })
  return { socket, ended }
}

test.each([
  ['worker', () => startWorkerApp()],
  ['router', () => startRouterApp()],
])('a %s takes JSON that says so, as it is, and names what to send instead', async (_, start) => {
  const { url } = await start()
  for (const [headers, words] of [
    [{ 'content-type': 'application/x-www-form-urlencoded' }, 'content-type: application/json'],
    [{ 'content-type': 'text/plain;charset=UTF-8' }, 'content-type: application/json'],
    [{ 'content-type': '' }, 'no content-type'],
    [{ 'content-type': 'application/json; charset=latin1' }, 'charset latin1'],
    [{ 'content-encoding': 'gzip' }, 'content-encoding "gzip"'],
    [{ 'content-encoding': 'identity, br' }, 'content-encoding "identity, br"'],
  ] as const) {
    const bytes = 'content-encoding' in headers ? gzipSync(body) : body
    const answer = await complete(url, bytes, headers)
    expect(answer.status, JSON.stringify(headers)).toBe(415)
    expect(errorIn(answer).message).toContain(words)
  }
  for (const headers of [
    { 'content-type': 'application/json; charset=utf-8' },
    { 'content-type': 'Application/JSON;charset="UTF-8"' },
    { 'content-encoding': 'identity' },
  ]) {
    expect((await complete(url, body, headers)).status).toBe(200)
  }
  const latin1 = await complete(url, Buffer.from('{"prompt":"é"}', 'latin1'))
  expect(latin1.status).toBe(400)
  expect(errorIn(latin1).message).toBe('The body is not valid UTF-8.')
  expect((await complete(url, `\ufeff${body}`)).status).toBe(200)
})

test.each(['length', 'chunked'] as const)(
  'a body of the greatest length is taken, one byte more is not (%s)',
  async (framing) => {
    const { url } = await reader({ bodyBytes: 1_000 })
    const post = (length: number) =>
      send(`${url}/v1/completions`, {
        ...{ method: 'POST', headers: { 'content-type': 'application/json' }, framing },
        body: 'x'.repeat(length),
      })
    expect(await post(1_000)).toMatchObject({ status: 200, body: '{"length":1000}' })
    const refused = await post(1_001)
    expect(refused.status).toBe(413)
    expect(errorIn(refused).code).toBe('body_too_large')
  },
)

test('who asks whether to send its body is answered before it does', async () => {
  const { port } = await reader({ bodyBytes: 1_000 })
  const tooLong = await begin(port, '', 'expect: 100-continue\r\ncontent-length: 1001')
  expect(await tooLong.ended).toMatch(/^HTTP\/1\.1 413 /)
  const right = await begin(
    port,
    '',
    'expect: 100-continue\r\ncontent-length: 2\r\nconnection: close',
  )
  await once(right.socket, 'data')
  right.socket.write('{}')
  expect(await right.ended).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 /)
})

test('a body that stops coming is given up, and its connection with it', async () => {
  const { port, codes } = await reader({ paceMs: 50, paceBytes: 100 })
  // Much at first buys no time.
  const slow = await begin(port, ' '.repeat(900))
  expect(await slow.ended).toMatch(/^HTTP\/1\.1 408 /)
  expect(codes).toEqual(['body_too_slow'])
})

test('bodies that together are more than a server holds are refused until others have been answered', async () => {
  let answer!: () => void
  const { port, url, codes } = await reader(
    { heldBytes: 2_000 },
    new Promise((resolve) => (answer = resolve)),
  )
  const post = (length: number) => complete(url, 'x'.repeat(length))
  // One that waits for its answer counts, and so does one that is still coming.
  const waiting = post(1_000)
  const coming = await begin(port, ' '.repeat(900))
  await expect.poll(async () => (await post(900)).status).toBe(429)
  const refused = await post(900)
  expect(refused.headers['retry-after']).toBe('1')
  expect(errorIn(refused).code).toBe('ERR_KVX_OVER_LIMIT')
  const small = post(50)
  coming.socket.destroy()
  await expect.poll(() => codes).toContain('ERR_KVX_ABORTED')
  const fits = post(900)
  answer()
  for (const one of [waiting, small, fits]) expect((await one).status).toBe(200)
  // Nothing is counted for ever.
  expect((await post(1_990)).status).toBe(200)
})

test('of a hundred bodies of 4 MiB that never end, no more are held than a server may hold', async () => {
  const { port, codes } = await reader({ paceMs: 3_600_000 })
  const part = ' '.repeat(4 * 2 ** 20 - 1)
  const length = `content-length: ${String(4 * 2 ** 20)}`
  const all = await Promise.all(Array.from({ length: 100 }, () => begin(port, part, length)))
  let ended = 0
  for (const one of all) void one.ended.then(() => ended++)
  // The greatest number of them that 64 MiB have room for is 16.
  await expect.poll(() => ended, { timeout: 60_000 }).toBeGreaterThanOrEqual(84)
  expect(new Set(codes)).toEqual(new Set(['ERR_KVX_OVER_LIMIT']))
  for (const { socket } of all) socket.destroy()
})
