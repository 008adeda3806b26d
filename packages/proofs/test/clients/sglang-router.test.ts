/** Does SGLang's own router, as it is published, serve through workers of kvx, and what becomes of requests whose worker dies? */
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { patience, Process } from '../../../cli/test/support/cluster.ts'
import { answersOf, asks, post, type Ask } from './support/asks.ts'
import { SglangRouter } from './support/sglang-router.ts'

const worker = (mode: string, ...more: string[]) =>
  Process.start([
    ...['serve', '--disaggregation-mode', mode, '--port', '0'],
    ...['--disaggregation-bootstrap-port', '0', '--context-length', '1024', ...more],
  ])

let prefill: Process
let decode: Process
let alone: Process
let processes: Process[] = []

beforeAll(async () => {
  processes = await Promise.all([worker('prefill'), worker('decode'), worker('null')])
  ;[prefill, decode, alone] = processes as [Process, Process, Process]
}, patience)

afterAll(async () => {
  await Promise.all(processes.map((one) => one.stop()))
}, patience)

async function start(...args: Parameters<typeof SglangRouter.start>): Promise<SglangRouter> {
  const router = await SglangRouter.start(...args)
  onTestFinished(() => router.stop())
  return router
}

describe.each(['router', 'mini-lb'] as const)('through the %s', (kind) => {
  let router: SglangRouter
  beforeAll(async () => {
    router = await SglangRouter.start(kind, prefill, decode)
  }, patience)
  afterAll(() => router.stop())

  test.each(Object.entries(asks))(
    '%s has the answer of one process, streamed and not',
    async (_, ask) => {
      const expected = await answersOf(alone.url, ask, false)
      expect(expected[0]?.text).not.toBe('')
      expect(await answersOf(router.url, ask, false)).toEqual(expected)
      expect(await answersOf(router.url, ask, true)).toEqual(expected)
    },
  )
})

test("SGLang's router joins what both legs tell of a scored prompt to what one process tells", async () => {
  const router = await start('router', prefill, decode)
  const body = {
    ...{ text: 'The capital of France is', return_logprob: true, logprob_start_len: 0 },
    sampling_params: { max_new_tokens: 3, temperature: 0 },
  }
  const scores = async (url: string) => {
    const response = await post(url, { path: '/generate', body }, false)
    const { meta_info: told } = JSON.parse(await response.text()) as {
      meta_info: { input_token_logprobs: [number | null, number][] }
    }
    return told.input_token_logprobs
  }
  const [expected, actual] = [await scores(alone.url), await scores(router.url)]
  expect(expected.length).toBeGreaterThan(3)
  expect(actual.map(([, id]) => id)).toEqual(expected.map(([, id]) => id))
  for (const [i, [logprob]] of expected.entries()) {
    expect(actual[i]?.[0] ?? 0).toBeCloseTo(logprob ?? 0, 3)
  }
})

test("with a key SGLang's router asks workers that have it, and clients need it", async () => {
  const key = ['--api-key', 'a-key-for-tests']
  const [p, d] = await Promise.all([worker('prefill', ...key), worker('decode', ...key)])
  processes.push(p, d)
  const router = await start('router', p, d, ...key)
  const ask = (headers: Record<string, string>) =>
    fetch(`${router.url}/generate`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(asks['/generate with one prompt']?.body),
    })
  expect((await ask({ authorization: 'Bearer a-key-for-tests' })).status).toBe(200)
  expect((await ask({})).status).toBe(401)
})

const long: Ask = {
  path: '/v1/completions',
  body: {
    ...{ model: 'smollm2', prompt: 'Once upon a time', max_tokens: 900 },
    ...{ temperature: 0, ignore_eos: true },
  },
}
const short = asks['/v1/completions with one prompt']!

/** How a request ended: with its status, or with a connection that broke. */
async function endOf(response: Promise<Response>): Promise<number | 'broken'> {
  const { status, body } = await response
  const reader = body?.getReader()
  try {
    while (!(await reader?.read())?.done);
    return status
  } catch (cause) {
    if ((cause as Error).name === 'TimeoutError') throw cause
    return 'broken'
  }
}

test('when decode is killed, a stream breaks off and a plain request fails, both at once; a worker that is added serves', async () => {
  const doomed = await worker('decode')
  processes.push(doomed)
  const router = await start('router', prefill, doomed)
  const stream = await post(router.url, long, true)
  const plain = endOf(post(router.url, long, false))
  await untilRunning(doomed, 2)
  doomed.signal('SIGKILL')
  await doomed.gone
  expect(await endOf(Promise.resolve(stream))).toBe('broken')
  expect(await plain).toBeGreaterThanOrEqual(500)
  // Nobody is left to decode: this one fails too, and does not wait.
  expect(await endOf(post(router.url, short, false))).toBeGreaterThanOrEqual(500)
  await router.remove(doomed)
  await router.add('decode', decode)
  expect(await answersOf(router.url, short, true)).toEqual(await answersOf(alone.url, short, false))
})

test('with a second decode worker a request whose decode worker is gone is tried again, and answered', async () => {
  const doomed = await worker('decode')
  processes.push(doomed)
  // Other policies may choose the dead one in every one of the five attempts.
  const router = await start('router', prefill, doomed, '--decode-policy', 'round_robin')
  await router.add('decode', decode)
  doomed.signal('SIGKILL')
  await doomed.gone
  const expected = await answersOf(alone.url, short, false)
  for (let i = 0; i < 4; i++)
    expect(await answersOf(router.url, short, i % 2 === 0)).toEqual(expected)
})

test('a prefill worker that was killed and started elsewhere serves when it is added again', async () => {
  const doomed = await worker('prefill')
  processes.push(doomed)
  const router = await start('router', doomed, decode)
  const expected = await answersOf(alone.url, short, false)
  expect(await answersOf(router.url, short, false)).toEqual(expected)
  doomed.signal('SIGKILL')
  await doomed.gone
  expect(await endOf(post(router.url, short, false))).toBeGreaterThanOrEqual(500)
  await router.remove(doomed)
  await router.add('prefill', prefill)
  expect(await answersOf(router.url, short, false)).toEqual(expected)
})

test('the mini-lb tells that a decode worker was killed, and does not hang', async () => {
  const doomed = await worker('decode')
  processes.push(doomed)
  const router = await start('mini-lb', prefill, doomed)
  const stream = endOf(post(router.url, long, true))
  const plain = endOf(post(router.url, long, false))
  await untilRunning(doomed, 2)
  doomed.signal('SIGKILL')
  await doomed.gone
  expect(await stream).toBe('broken')
  expect(await plain).toBeGreaterThanOrEqual(500)
})

/** Resolves once so many requests have had a token. */
async function untilRunning(one: Process, count: number): Promise<void> {
  const running = new Set<string>()
  await one.event(({ name, request }) => {
    if (name === 'token') running.add(request)
    return running.size >= count
  })
}
