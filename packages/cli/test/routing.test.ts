/** Who does a request that a router gets, and what a router tells of its workers and passes on to them. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { complete, pageGauges, patience, Process } from './support/cluster.ts'

const engine = ['--context-length', '512', '--max-running-requests', '2']
const worker = (mode: string, ...more: string[]) =>
  Process.start([
    ...['serve', '--disaggregation-mode', mode, '--port', '0', '--model', 'smollm2'],
    ...['--disaggregation-bootstrap-port', '0', ...engine, ...more],
  ])

let prefill: Process
let decode: Process
let alone: Process
let router: Process
const processes: Process[] = []

beforeAll(async () => {
  processes.push(...(await Promise.all(['prefill', 'decode', 'null'].map((mode) => worker(mode)))))
  ;[prefill, decode, alone] = processes as [Process, Process, Process]
  router = await start()
}, patience)

afterAll(async () => {
  await Promise.all(processes.map((one) => one.stop()))
}, patience)

async function start(...flags: string[]): Promise<Process> {
  const started = await Process.start([
    ...['router', '--port', '0', '--decode', decode.url, ...flags],
    ...['--prefill', `${prefill.url},${String(prefill.bootstrapPort)}`],
  ])
  processes.push(started)
  return started
}

/** Ids of ordinary tokens, the same in every run. */
const prompt = (length: number, first = 300) =>
  Array.from({ length }, (_, i) => first + ((length * 131 + i * i * 17 + i * 7) % 40_000))
const greedy = { max_tokens: 6, temperature: 0, stream: false }

async function get(path: string): Promise<{ status: number; body: unknown }> {
  const response = await fetch(router.url + path)
  return { status: response.status, body: await response.json() }
}

async function post(path: string, body: object): Promise<{ status: number; body: unknown }> {
  const response = await fetch(router.url + path, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return { status: response.status, body: await response.json() }
}

test('a decode worker that is asked without a room answers alone, with the tokens of one process, and shares what it has computed', async () => {
  const atRest = await pageGauges(decode)
  const question = { ...greedy, prompt: prompt(100) }
  const expected = await complete(alone.url, question)
  for (const stream of [false, true]) {
    const answer = await complete(decode.url, { ...question, stream })
    expect(answer.tokens).toEqual(expected.tokens)
    expect(answer.kvx.transfer).toBeUndefined()
  }
  // The same prompt by way of prefill has nothing left to move but its last, partial page.
  const moved = await complete(router.url, question)
  expect(moved.tokens).toEqual(expected.tokens)
  expect(moved.kvx.transfer?.pages).toBe(1)
  expect(await pageGauges(decode)).toEqual(atRest)
})

test('short prompts, and those of which decode has most, stay at decode; the others go through prefill', async () => {
  const { url } = await start('--max-local-prefill-length', '20')
  const through = async (ids: number[]) => {
    const question = { ...greedy, prompt: ids }
    const { tokens, kvx } = await complete(url, question)
    expect(tokens).toEqual((await complete(alone.url, question)).tokens)
    return kvx.transfer === undefined ? 'decode' : 'prefill'
  }
  expect(await through(prompt(20, 500))).toBe('decode')
  expect(await through(prompt(21, 500))).toBe('prefill')
  const long = prompt(200, 700)
  expect(await through(long)).toBe('prefill')
  // What was added since is all that is to be computed.
  expect(await through([...long, 9, 10, 11])).toBe('decode')
  const text = await (await fetch(`${url}/metrics`)).text()
  expect(text).toMatch(/^kvx_router_local_prefills_total\{reason="short"\} 2$/m)
})

test.each([false, true])('a prompt is scored as by one process (stream: %s)', async (stream) => {
  const scores = async (url: string) => {
    const response = await fetch(`${url}/generate`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        ...{ input_ids: prompt(90, 400), return_logprob: true, logprob_start_len: 0, stream },
        sampling_params: { max_new_tokens: 3, temperature: 0 },
      }),
    })
    const events = (await response.text()).replaceAll('data: ', '').split('\n\n')
    const last = events.filter((event) => event.startsWith('{')).at(-1) ?? ''
    const { meta_info: told } = JSON.parse(last) as {
      meta_info: Record<'input_token_logprobs' | 'output_token_logprobs', [number | null, number][]>
    }
    return [told.input_token_logprobs, told.output_token_logprobs] as const
  }
  const [expected, actual] = await Promise.all([scores(alone.url), scores(router.url)])
  expect(expected[0]).toHaveLength(90)
  expect(expected[1]).toHaveLength(3)
  for (const [i, list] of expected.entries()) {
    expect(actual[i]?.map(([, id]) => id)).toEqual(list.map(([, id]) => id))
    for (const [j, [logprob]] of list.entries()) {
      expect(actual[i]?.[j]?.[0] ?? 0).toBeCloseTo(logprob ?? 0, 3)
    }
  }
})

test('while no prefill worker lives, decode answers alone', async () => {
  const doomed = await worker('prefill')
  processes.push(doomed)
  const { url } = await Process.start([
    ...['router', '--port', '0', '--decode', decode.url],
    ...['--prefill', `${doomed.url},${String(doomed.bootstrapPort)}`],
  ]).then((one) => (processes.push(one), one))
  const question = { ...greedy, prompt: prompt(60, 900) }
  expect((await complete(url, question)).kvx.transfer).toBeDefined()
  doomed.signal('SIGKILL')
  await doomed.gone
  const { tokens } = await complete(alone.url, question)
  for (const stream of [false, true]) {
    const answer = await complete(url, { ...question, stream })
    expect(answer.kvx.transfer).toBeUndefined()
    expect(answer.tokens).toEqual(tokens)
  }
  expect((await fetch(`${url}/health`)).status).toBe(503)
})

test('a router tells how it and its workers are', async () => {
  expect(await get('/livez')).toEqual({ status: 200, body: { status: 'ok' } })
  expect(await get('/readyz')).toMatchObject({ status: 200, body: { status: 'ok' } })
  expect(await get('/health_generate')).toMatchObject({
    status: 200,
    body: {
      status: 'ok',
      pairs: [{ prefill: prefill.url, decode: decode.url, transfer: { pages: 1, backend: 'shm' } }],
    },
  })
  for (const path of ['/server_info', '/get_server_info']) {
    expect(await get(path)).toMatchObject({
      status: 200,
      body: {
        prefill: [{ disaggregation_mode: 'prefill', bootstrap_port: prefill.bootstrapPort }],
        decode: [{ disaggregation_mode: 'decode' }],
      },
    })
  }
  for (const path of ['/model_info', '/get_model_info']) {
    expect(await get(path)).toMatchObject({ status: 200, body: { model_type: 'llama' } })
  }
  expect(await get('/v1/models/smollm2')).toMatchObject({ status: 200, body: { id: 'smollm2' } })
  expect(await get('/v1/models/other')).toMatchObject({
    status: 404,
    body: { error: { code: 'model_not_found' } },
  })
  expect(await get('/get_load')).toMatchObject({
    status: 200,
    body: [
      { role: 'prefill', url: prefill.url, num_reqs: 0 },
      { role: 'decode', url: decode.url, num_reqs: 0 },
    ],
  })
})

test('caches are flushed at every worker', async () => {
  const question = { ...greedy, prompt: prompt(100, 1_100) }
  const pages = async () => (await complete(router.url, question)).kvx.transfer?.pages
  expect(await pages()).toBe(7)
  expect(await pages()).toBe(1)
  expect(await post('/flush_cache', {})).toMatchObject({ status: 200, body: { status: 'ok' } })
  expect(await pages()).toBe(7)
})

test('a request is ended by its name through the router', async () => {
  const question = { prompt: prompt(30, 1_300), rid: 'long-one', max_tokens: 400, ignore_eos: true }
  const answer = post('/v1/completions', question)
  await decode.event(({ name, request }) => name === 'token' && request === 'long-one')
  expect(await post('/abort_request', { rid: 'long-one' })).toEqual({
    status: 200,
    body: { aborted: 1 },
  })
  expect(await answer).toMatchObject({ status: 499, body: { error: { code: 'ERR_KVX_ABORTED' } } })
  expect(await post('/abort_request', { rid: 'nobody' })).toMatchObject({ body: { aborted: 0 } })
})
