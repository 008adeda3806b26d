/** Who may ask a server: by which name, from which page, with which key? */
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '@kvx/contract'
import { makeAdmission, type AdmissionOptions } from '../src/http/admission.ts'
import {
  asJson,
  closeAll,
  complete,
  errorIn,
  send,
  startRouterApp,
  startWorkerApp,
} from './support/http.ts'
import { startRouter } from '../src/index.ts'

afterEach(closeAll)

const body = '{"prompt":[1,2],"max_tokens":2}'

/** The status with which a server on this address refuses the headers; 200 when it does not. */
function status(
  headers: Record<string, string>,
  { address = '127.0.0.1', ...options }: AdmissionOptions & { address?: string } = {},
  method = 'POST',
  url = '/v1/completions',
): number {
  const { answer } = makeAdmission(options, address, address)({ method, url, headers })
  return answer === undefined ? 200 : answer === 'preflight' ? 204 : answer.status
}

test.each([
  '127.0.0.1:30000',
  '127.1.2.3',
  'localhost:30000',
  'LOCALHOST',
  'localhost.',
  'api.localhost:1',
  '[::1]:30000',
  '[::ffff:127.0.0.1]',
])('a server on loopback is known as %s', (host) => {
  expect(status({ host })).toBe(200)
})

test.each([
  'evil.example',
  'evil.example:30000',
  '127.0.0.1.evil.example',
  'localhost.evil.example',
  '128.0.0.1',
  '[::2]',
  'localhost@evil.example',
  'evil.example/localhost',
  '',
])('a page that calls a server on loopback %j gets nothing from it', (host) => {
  for (const address of ['127.0.0.1', '::1']) expect(status({ host }, { address })).toBe(403)
})

test('further names can be allowed, and on another address then only these', () => {
  const allowedHosts = ['kvx.example']
  for (const address of ['127.0.0.1', '10.0.0.5']) {
    expect(status({ host: 'KVX.example:443' }, { allowedHosts, address })).toBe(200)
    expect(status({ host: 'evil.example' }, { allowedHosts, address })).toBe(403)
  }
  expect(status({ host: '10.0.0.5:30000' }, { allowedHosts, address: '10.0.0.5' })).toBe(200)
})

test('a server that other machines reach is known by any name unless told otherwise', () => {
  expect(status({ host: 'node-7:30000' }, { address: '10.0.0.5' })).toBe(200)
})

test.each([
  'https://evil.example',
  'http://evil.example:30000',
  'null',
  'http://localhost.evil.example',
  'file://',
  'chrome-extension://abcdef',
])('a page of %s is refused', (origin) => {
  expect(status({ host: '127.0.0.1:30000', origin })).toBe(403)
  expect(status({ host: '10.0.0.5:30000', origin }, { address: '10.0.0.5' })).toBe(403)
})

test('pages of this machine may use a server on loopback, and only that', () => {
  const origin = 'http://localhost:5173'
  expect(status({ host: '127.0.0.1:30000', origin })).toBe(200)
  expect(status({ host: '10.0.0.5:30000', origin }, { address: '10.0.0.5' })).toBe(403)
})

test('a page of the address under which the server was asked is its own', () => {
  const headers = { host: 'kvx.example', origin: 'https://kvx.example' }
  expect(status(headers, { address: '10.0.0.5' })).toBe(200)
  expect(status({ ...headers, host: 'kvx.example:81' }, { address: '10.0.0.5' })).toBe(403)
})

test.each([[['https://chat.example']], [['https://CHAT.example/']], [['*']]])(
  'an origin that is allowed (%j) is told so in every answer, and before it asks',
  (allowedOrigins) => {
    const admit = makeAdmission({ allowedOrigins, apiKey: 'k' }, '127.0.0.1', '127.0.0.1')
    const headers = { host: '127.0.0.1', origin: 'https://chat.example' }
    const question = {
      ...headers,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type',
    }
    const url = '/v1/completions'
    expect(admit({ method: 'OPTIONS', url, headers: question })).toMatchObject({
      answer: 'preflight',
      headers: {
        'access-control-allow-origin': 'https://chat.example',
        'access-control-allow-headers': 'authorization,content-type',
        vary: 'origin',
      },
    })
    // A page that may ask also reads why it was refused.
    expect(admit({ method: 'POST', url, headers })).toMatchObject({
      answer: { status: 401 },
      headers: { 'access-control-allow-origin': 'https://chat.example' },
    })
    const other = { ...question, origin: 'https://evil.example' }
    const { answer } = admit({ method: 'OPTIONS', url, headers: other })
    if (!allowedOrigins.includes('*')) expect(answer).toMatchObject({ status: 403 })
  },
)

test.each([
  ['Bearer secret', 200],
  ['bearer  secret', 200],
  ['Bearer Secret', 401],
  ['Bearer secre', 401],
  ['Bearer secret2', 401],
  ['Basic secret', 401],
  ['secret', 401],
  ['Bearer', 401],
  [undefined, 401],
])('with the key secret, authorization %j is answered with %i', (authorization, expected) => {
  const headers = { host: '127.0.0.1', ...(authorization !== undefined && { authorization }) }
  for (const [method, url] of [
    ['POST', '/v1/completions'],
    ['GET', '/metrics'],
    ['GET', '/server_info'],
    ['GET', '/nothing'],
    ['POST', '/health'],
  ] as const) {
    expect(status(headers, { apiKey: 'secret' }, method, url)).toBe(expected)
  }
  for (const url of ['/health', '/health?x']) {
    expect(status(headers, { apiKey: 'secret' }, 'GET', url)).toBe(200)
  }
})

describe.each([
  ['worker', startWorkerApp],
  ['router', ({ http }: { http?: AdmissionOptions }) => startRouterApp(http, http ? { http } : {})],
])('a %s', (_, start) => {
  test('does nothing for a foreign page, whatever kind of body it sends', async () => {
    const { url } = await start({})
    for (const [origin, type] of [
      ['https://evil.example', 'text/plain'],
      ['https://evil.example', 'application/json'],
    ] as const) {
      const answer = await complete(url, body, { origin, 'content-type': type })
      expect(answer.status).toBe(403)
      expect(answer.headers['access-control-allow-origin']).toBeUndefined()
      expect(errorIn(answer)).toMatchObject({ code: 'origin_not_allowed' })
    }
    const rebound = await send(`${url}/v1/models`, { headers: { host: 'evil.example' } })
    expect(rebound.status).toBe(403)
    expect(errorIn(rebound).message).toContain('"evil.example"')
  })

  test('answers an allowed page as it answers others, streams included', async () => {
    const origin = 'https://chat.example'
    const { url } = await start({ http: { allowedOrigins: [origin] } })
    for (const stream of [false, true]) {
      const answer = await complete(url, JSON.stringify({ prompt: [1], stream }), { origin })
      expect(answer.status).toBe(200)
      expect(answer.headers['access-control-allow-origin']).toBe(origin)
    }
    const asks = await send(`${url}/v1/completions`, {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'POST' },
    })
    expect(asks.status).toBe(204)
  })

  test('with a key answers who brings it, and others only how it is', async () => {
    const { url } = await start({ http: { apiKey: 'secret' } })
    const key = { authorization: 'Bearer secret' }
    expect((await complete(url, body, key)).status).toBe(200)
    expect((await send(`${url}/metrics`, { headers: key })).status).toBe(200)
    expect((await send(`${url}/v1/models`, { headers: key })).status).toBe(200)
    expect((await send(`${url}/health`)).status).toBe(200)
    const refused = await complete(url, body, { authorization: 'Bearer secret3' })
    expect(refused.status).toBe(401)
    expect(refused.headers['www-authenticate']).toMatch(/^Bearer /)
    expect(refused.body).not.toContain('secret')
    expect((await send(`${url}/metrics`, { headers: asJson })).status).toBe(401)
  })
})

test.each([
  ['no key', undefined, 'refuses this router, which has no key'],
  ['another key', 'another', 'refuses the key of this router'],
])(
  'a router that has %s says in its log, in /health and to clients that --api-key must be the same',
  async (_, apiKey, words) => {
    const worker = { http: { apiKey: 'secret' } }
    const [prefill, decode] = await Promise.all([startWorkerApp(worker), startWorkerApp(worker)])
    const lines: string[] = []
    const log = { ...silentLog, error: (_fields: object, text: string) => lines.push(text) }
    const router = await startRouter({
      // Its port is known, so that no request has to ask for it.
      ...{ prefill: [{ url: prefill.url, bootstrapPort: 1 }], decode: [decode.url], log },
      http: { apiKey },
    })
    try {
      const of = ({ url }: { url: string }, role: string) =>
        `The ${role} worker at ${url} ${words}: start the router and its workers with the same --api-key or KVX_API_KEY.`
      const answer = await complete(router.url, body, {
        authorization: `Bearer ${apiKey ?? 'secret'}`,
      })
      expect(answer.status).toBe(502)
      expect(errorIn(answer).message).toBe(of(prefill, 'prefill'))
      const health = await send(`${router.url}/health`)
      expect(health.status).toBe(503)
      const { problems } = JSON.parse(health.body) as { problems: { message: string }[] }
      expect(problems.map(({ message }) => message)).toEqual([
        of(prefill, 'prefill'),
        of(decode, 'decode'),
      ])
      expect(lines.toSorted()).toEqual([of(decode, 'decode'), of(prefill, 'prefill')])
      expect(JSON.stringify([answer, health, lines])).not.toContain('"secret"')
    } finally {
      await router.close()
    }
  },
)
