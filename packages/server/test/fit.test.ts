/** Does a router say what is wrong with its workers, before a client is blamed for it? */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { startRouter } from '../src/index.ts'

const open: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

const described = {
  served_model_name: 'm',
  model_id: 'a'.repeat(64),
  page_size: 16,
  transfer_backend: 'shm',
  context_length: 1024,
  kv_settings: { rope: '1' },
}

interface Played {
  url: string
  /** What it tells of itself; it may be started again with other options. */
  info: object
  hits: number
}

/** A worker that answers everything; what reaches it is counted. */
async function play(mode: string, info: object = {}): Promise<Played> {
  const played: Played = {
    url: '',
    info: { ...described, disaggregation_mode: mode, ...info },
    hits: 0,
  }
  const server: Server = createServer((request, response) => {
    request.resume()
    response.setHeader('content-type', 'application/json')
    if (request.method === 'POST') played.hits++
    const models = { object: 'list', data: [{ id: 'm', max_model_len: 1024 }] }
    response.end(JSON.stringify(request.url === '/v1/models' ? models : played.info))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  open.push(async () => {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  })
  played.url = `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`
  return played
}

async function router(prefill: readonly Played[], decode: readonly Played[]) {
  const started = await startRouter({
    prefill: prefill.map(({ url }) => ({ url, bootstrapPort: 1 })),
    decode: decode.map(({ url }) => url),
  })
  open.push(() => started.close())
  return started.url
}

const ask = async (url: string) => {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"prompt":"x"}',
  })
  return { status: response.status, body: (await response.json()) as { error?: object } }
}
const health = async (url: string) => {
  const response = await fetch(`${url}/health`)
  return { status: response.status, body: await response.json() }
}

test.each([
  ['roles are swapped', 'decode', 'prefill', {}, {}, 'INVALID_OPTION', ['--disaggregation-mode']],
  [
    'a prefill worker is given as decode',
    'prefill',
    'prefill',
    {},
    {},
    'INVALID_OPTION',
    ['decode'],
  ],
  ['a standalone worker is given', 'null', 'decode', {}, {}, 'INVALID_OPTION', ['null']],
  [
    'models differ',
    'prefill',
    'decode',
    {},
    { model_id: 'b'.repeat(64) },
    'LAYOUT_MISMATCH',
    ['aaaaaaaaaaaa', 'bbbbbbbbbbbb'],
  ],
  [
    'page sizes differ',
    'prefill',
    'decode',
    {},
    { page_size: 32 },
    'PAGE_SIZE_MISMATCH',
    ['16', '32', '--page-size'],
  ],
  [
    'backends differ',
    'prefill',
    'decode',
    { transfer_backend: 'mori' },
    {},
    'BACKEND_MISMATCH',
    ['mori', 'shm'],
  ],
  [
    'settings differ',
    'prefill',
    'decode',
    {},
    { kv_settings: { rope: '2' } },
    'LAYOUT_MISMATCH',
    ['rope', '1', '2'],
  ],
] as const)(
  'when %s, health and every answer say so, nothing is sent, and no client is blamed',
  async (_what, first, second, ofFirst, ofSecond, code, words) => {
    const [prefill, decode] = [await play(first, ofFirst), await play(second, ofSecond)]
    const url = await router([prefill], [decode])
    const answer = await ask(url)
    expect(answer.status).toBe(502)
    expect(answer.body.error).toMatchObject({ code: `ERR_KVX_${code}`, type: 'server_error' })
    const { message } = answer.body.error as { message: string }
    for (const word of words) expect(message).toContain(word)
    expect([prefill.hits, decode.hits]).toEqual([0, 0])
    expect(await health(url)).toMatchObject({
      status: 503,
      body: {
        status: 'unavailable',
        problems: expect.arrayContaining([{ code: `ERR_KVX_${code}`, message }]) as unknown,
      },
    })
  },
)

test('of several workers those that fit together are used, and the others are named in health', async () => {
  const prefills = [await play('prefill'), await play('prefill', { page_size: 32 })]
  const decode = await play('decode')
  const url = await router(prefills, [decode])
  for (let i = 0; i < 4; i++) expect((await ask(url)).status).toBe(200)
  expect(prefills.map(({ hits }) => hits)).toEqual([4, 0])
  const { status, body } = await health(url)
  expect(status).toBe(200)
  expect(body).toMatchObject({ problems: [{ code: 'ERR_KVX_PAGE_SIZE_MISMATCH' }] })
})

test('a worker that is started again with other options is judged anew', async () => {
  const [prefill, decode] = [await play('prefill'), await play('decode')]
  const url = await router([prefill], [decode])
  expect((await ask(url)).status).toBe(200)
  const { info } = decode
  decode.info = { ...info, page_size: 32 }
  expect((await health(url)).status).toBe(503)
  expect((await ask(url)).status).toBe(502)
  decode.info = info
  expect((await health(url)).status).toBe(200)
  expect((await ask(url)).status).toBe(200)
})

test('the models of a router have the length that both sides can take', async () => {
  const [prefill, decode] = [await play('prefill', { context_length: 256 }), await play('decode')]
  const response = await fetch(`${await router([prefill], [decode])}/v1/models`)
  expect(await response.json()).toMatchObject({ data: [{ id: 'm', max_model_len: 256 }] })
})
