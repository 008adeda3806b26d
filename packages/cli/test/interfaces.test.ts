/** Chat, batches, several answers and SGLang's interface: is each answer through two processes that of one? */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { pageGauges, patience, Process, withKey, startRouter } from './support/cluster.ts'

const engine = ['--context-length', '512', '--chunked-prefill-size', '32', '--disable-radix-cache']
const worker = (mode: string) => [
  ...['serve', '--disaggregation-mode', mode, '--port', '0'],
  ...['--disaggregation-bootstrap-port', '0', ...engine],
]

let workers: Process[] = []
let alone: Process
let router: Process
let atRest: unknown

beforeAll(async () => {
  workers = await Promise.all(
    ['prefill', 'decode', 'null'].map((mode) => Process.start(worker(mode))),
  )
  const [prefill, decode, both] = workers as [Process, Process, Process]
  alone = both
  router = await startRouter(prefill, decode)
  atRest = await Promise.all([prefill, decode].map(pageGauges))
}, patience)

afterAll(async () => {
  await Promise.all([...workers, router].map((one) => one.stop()))
}, patience)

async function ask(url: string, path: string, body: object): Promise<string> {
  const response = await fetch(`${url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...withKey() },
    body: JSON.stringify(body),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${String(response.status)} ${text}`)
  return text
}

/** Without what names one answer, and without what only a transfer has. */
function told(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(told)
  if (typeof value !== 'object' || value === null) return value
  const own = new Set(['id', 'created', 'kvx', 'e2e_latency'])
  const fields = Object.entries(value).filter(([name]) => !own.has(name))
  return Object.fromEntries(fields.map(([name, item]) => [name, told(item)]))
}

/** In the order of their choices: events of different answers come as they are computed. */
function eventsOf(text: string): unknown[] {
  const lines = text.split('\n\n').filter((line) => line !== '')
  expect(lines.pop()).toBe('data: [DONE]')
  const place = (event: { index?: number; choices?: { index: number }[] }) =>
    event.index ?? event.choices?.[0]?.index ?? Infinity
  return lines
    .map((line) => JSON.parse(line.replace(/^data: /, '')) as { index?: number })
    .sort((a, b) => place(a) - place(b))
}

async function expectEqual(path: string, body: object): Promise<unknown[]> {
  const answers = await Promise.all([ask(router.url, path, body), ask(alone.url, path, body)])
  const [split, whole] = answers.map((text) =>
    'stream' in body && body.stream === true ? eventsOf(text) : [JSON.parse(text) as unknown],
  )
  expect(told(split)).toEqual(told(whole))
  return split ?? []
}

const messages = [
  { role: 'system', content: 'You answer in one word.' },
  {
    role: 'user',
    content: [
      { type: 'text', text: 'What is the capital ' },
      { type: 'text', text: 'of France?' },
    ],
  },
]
const ids = (length: number, from = 300) =>
  Array.from({ length }, (_, i) => from + ((i * 37) % 9_000))
const drawn = { temperature: 0.9, seed: 7 }

test.each([false, true])(
  'a conversation is put into the form of the model (stream: %s)',
  async (stream) => {
    const body = { messages, max_tokens: 8, temperature: 0, stream, return_token_ids: true }
    const answer = JSON.stringify(await expectEqual('/v1/chat/completions', body))
    expect(answer).toContain('"role":"assistant"')
    expect(answer).toContain(stream ? 'chat.completion.chunk' : '"chat.completion"')
    // The template of this model, written out, is the same prompt.
    const prompt =
      '<|im_start|>system\nYou answer in one word.<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n'
    const plain = { prompt, max_tokens: 8, temperature: 0, return_token_ids: true }
    const { choices } = JSON.parse(await ask(alone.url, '/v1/completions', plain)) as {
      choices: [{ token_ids: number[] }]
    }
    const [{ token_ids: tokens }] = choices
    const chosen = [...answer.matchAll(/"token_ids":\[([\d,]*)\]/g)].flatMap(([, list = '']) =>
      list === '' ? [] : list.split(',').map(Number),
    )
    expect(chosen).toEqual(tokens)
  },
)

test('an answer of the assistant can be gone on with', async () => {
  const begun = [...messages, { role: 'assistant', content: 'The capital of' }]
  const body = { messages: begun, continue_final_message: true, max_tokens: 3, temperature: 0 }
  const [answer] = (await expectEqual('/v1/chat/completions', body)) as [
    { choices: [{ message: { content: string } }] },
  ]
  expect(answer.choices[0].message.content).toBe(' France is Paris')
})

test.each([false, true])(
  'several answers to one prompt come from one transfer, each drawn on its own (stream: %s)',
  async (stream) => {
    const body = {
      ...{ prompt: ids(40), n: 5, max_tokens: 6, stream, return_token_ids: true, ...drawn },
      ...(stream && { stream_options: { include_usage: true } }),
    }
    const events = await expectEqual('/v1/completions', body)
    const last = events.at(-1) as {
      kvx: { transfer: { pages: number } }
      usage: { prompt_tokens: number; completion_tokens: number }
    }
    expect(last.kvx.transfer.pages).toBe(3)
    expect(last.usage).toMatchObject({ prompt_tokens: 40, completion_tokens: 30 })
    const texts = new Map<number, string>()
    for (const { choices } of events as { choices: { index: number; text: string }[] }[]) {
      for (const { index, text } of choices) texts.set(index, (texts.get(index) ?? '') + text)
    }
    expect([...texts.keys()].sort()).toEqual([0, 1, 2, 3, 4])
    expect(new Set(texts.values()).size).toBeGreaterThan(1)
  },
)

test.each([false, true])(
  'the prompts of a batch are computed side by side, each with a room of its own (stream: %s)',
  async (stream) => {
    const prompt = [ids(20), ids(33, 900), ids(70, 2_000)]
    const body = { prompt, n: 2, max_tokens: 5, stream, return_token_ids: true, ...drawn }
    const events = (await expectEqual('/v1/completions', body)) as {
      choices: { index: number }[]
      kvx?: { transfer: { pages: number } }[]
    }[]
    const indices = new Set(events.flatMap(({ choices }) => choices.map(({ index }) => index)))
    expect([...indices].sort()).toEqual([0, 1, 2, 3, 4, 5])
    if (stream) return
    expect(events[0]?.kvx?.map(({ transfer: { pages } }) => pages)).toEqual([2, 3, 5])
  },
)

test.each([
  ['text', { text: 'The capital of France is' }],
  ['token ids', { input_ids: ids(25) }],
  ['several texts', { text: ['One, two, three,', 'The capital of France is'] }],
  ['several lists of token ids', { input_ids: [ids(25), ids(9)] }],
] as const)('/generate answers %s, streamed or not', async (_, prompt) => {
  const body = { ...prompt, sampling_params: { max_new_tokens: 6, temperature: 0 } }
  const [whole] = await expectEqual('/generate', body)
  const events = await expectEqual('/generate', { ...body, stream: true })
  interface Answer {
    text: string
    output_ids: number[]
    meta_info: Record<string, unknown>
    index?: number
  }
  const answers = (Array.isArray(whole) ? whole : [whole]) as Answer[]
  answers.forEach(({ text, output_ids: tokens, meta_info: meta }, index) => {
    expect(meta).toMatchObject({
      completion_tokens: 6,
      finish_reason: { type: 'length', length: 6 },
    })
    const mine = (events as Answer[]).filter((event) => (event.index ?? 0) === index)
    // Each event tells all that has come so far.
    expect(mine.at(-1)).toMatchObject({ text, output_ids: tokens })
    const counts = mine.map(({ meta_info: { completion_tokens: count } }) => Number(count))
    expect(counts).toEqual([...counts].sort((a, b) => a - b))
  })
})

test('/generate tells what ended an answer', async () => {
  const text = 'One, two, three, four,'
  const params = { max_new_tokens: 24, temperature: 0 }
  const [whole] = (await expectEqual('/generate', { text, sampling_params: params })) as [
    { text: string; output_ids: number[] },
  ]
  const stop = whole.text.slice(5, 9)
  const [byText] = await expectEqual('/generate', { text, sampling_params: { ...params, stop } })
  expect(byText).toMatchObject({ meta_info: { finish_reason: { type: 'stop', matched: stop } } })
  const token = whole.output_ids[3]
  const byToken = { ...params, stop_token_ids: [token] }
  const [ended] = await expectEqual('/generate', { text, sampling_params: byToken })
  expect(ended).toMatchObject({ meta_info: { finish_reason: { type: 'stop', matched: token } } })
})

test('/generate with no new tokens moves the cache and answers without any', async () => {
  const body = { text: 'The capital of France is', sampling_params: { max_new_tokens: 0 } }
  const [answer] = (await expectEqual('/generate', body)) as [
    { kvx: { transfer: { bytes: number } } },
  ]
  expect(answer).toMatchObject({
    ...{ text: '', output_ids: [] },
    meta_info: { completion_tokens: 0, finish_reason: { type: 'length', length: 0 } },
  })
  expect(answer.kvx.transfer.bytes).toBeGreaterThan(0)
})

test('a batch of which one prompt is refused is refused as a whole, before anything is computed', async () => {
  const body = { input_ids: [ids(20), ids(600)], sampling_params: { max_new_tokens: 2 } }
  await expect(ask(router.url, '/generate', body)).rejects.toThrow('600 tokens')
})

test('every worker moves real pages through its engine when it is asked how it is', async () => {
  const bytes = { pages: 1, bytes: 368_640, backend: 'shm' }
  const [prefill, decode] = workers as [Process, Process]
  for (const [one, transfer] of [
    [prefill, bytes],
    [decode, bytes],
    [alone, undefined],
  ] as const) {
    // Twice: a partner is opened once.
    for (let i = 0; i < 2; i++) {
      const response = await fetch(`${one.url}/health_generate`, { headers: withKey() })
      const answer = (await response.json()) as { transfer?: object }
      expect(answer).toMatchObject({ status: 'ok' })
      if (transfer) expect(answer.transfer).toMatchObject(transfer)
      else expect(answer.transfer).toBeUndefined()
    }
  }
})

test('after all that every page is back', async () => {
  const [prefill, decode] = workers as [Process, Process]
  await expect
    .poll(() => Promise.all([prefill, decode].map(pageGauges)), { timeout: patience })
    .toEqual(atRest)
})

test.each([false, true])(
  'log probabilities of an answer are those of one process (stream: %s)',
  async (stream) => {
    const prompt = ids(30)
    const common = { max_tokens: 5, temperature: 0, stream }
    const [completion] = await expectEqual('/v1/completions', {
      ...common,
      prompt,
      n: 2,
      logprobs: 3,
    })
    expect(JSON.stringify(completion)).toMatch(/"token_logprobs":\[-\d/)
    const chat = await expectEqual('/v1/chat/completions', {
      ...{ ...common, messages, logprobs: true, top_logprobs: 2 },
    })
    expect(JSON.stringify(chat)).toMatch(/"top_logprobs":\[\{"token":"[^"]+","logprob":-/)
    const [generated] = (await expectEqual('/generate', {
      ...{ input_ids: prompt, stream, return_logprob: true, top_logprobs_num: 2 },
      ...{ return_text_in_logprobs: true, sampling_params: { max_new_tokens: 5, temperature: 0 } },
    })) as [{ meta_info: Record<string, unknown[]> }]
    expect(generated.meta_info).toMatchObject({ input_token_logprobs: [], input_top_logprobs: [] })
    const [first] = generated.meta_info.output_token_logprobs as [[number, number, string]]
    expect(first[0]).toBeLessThan(0)
    expect(typeof first[2]).toBe('string')
  },
)

test.each([false, true])('the router tells both together (stream: %s)', async (stream) => {
  const params = { sampling_params: { max_new_tokens: 3, temperature: 0, n: 2 } }
  const scored = { return_logprob: true, logprob_start_len: 10, top_logprobs_num: 2, stream }
  const body = { input_ids: [ids(40), ids(20, 900)], ...scored, ...params }
  const events = (await expectEqual('/generate', body)).flat() as [
    { meta_info: { input_token_logprobs: unknown[] } },
  ]
  const lengths = events.map(({ meta_info: meta }) => meta.input_token_logprobs.length)
  expect([...new Set(lengths)].sort()).toEqual([10, 30])
})

test('the prompt is scored where it is computed: both legs together tell what one process tells', async () => {
  const [prefill, decode] = workers as [Process, Process]
  const ask = async (url: string, more: object) => {
    const response = await fetch(`${url}/generate`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...withKey() },
      body: JSON.stringify({
        ...{ input_ids: ids(70), return_logprob: true, logprob_start_len: 0, top_logprobs_num: 1 },
        ...{ sampling_params: { max_new_tokens: 4, temperature: 0 }, ...more },
      }),
    })
    const { meta_info: meta } = (await response.json()) as { meta_info: Record<string, unknown[]> }
    return meta
  }
  const bootstrap = {
    ...{ bootstrap_host: '127.0.0.1', bootstrap_port: prefill.bootstrapPort, bootstrap_room: 77 },
  }
  const [sent, received, whole] = await Promise.all([
    ask(prefill.url, bootstrap),
    ask(decode.url, bootstrap),
    ask(alone.url, {}),
  ])
  expect(whole.input_token_logprobs).toHaveLength(70)
  expect(whole.input_token_logprobs?.[0]).toEqual([null, ids(70)[0], null])
  for (const name of ['input_token_logprobs', 'input_top_logprobs']) {
    expect([...(sent[name] ?? []), ...(received[name] ?? [])]).toEqual(whole[name])
  }
  expect(received.output_token_logprobs).toEqual(whole.output_token_logprobs)
  expect(sent.output_token_logprobs).toEqual(whole.output_token_logprobs?.slice(0, 1))
})

test.each([
  ['/v1/completions', { prompt: 'a', logprobs: 21 }, 'logprobs'],
  ['/v1/completions', { prompt: 'a', logprobs: true }, 'logprobs'],
  ['/v1/chat/completions', { messages, top_logprobs: 2 }, 'top_logprobs needs logprobs'],
  ['/generate', { text: 'a', return_logprob: true, token_ids_logprob: [1] }, 'token_ids_logprob'],
  ['/generate', { text: 'a', return_logprob: true, logprob_start_len: -2 }, 'logprob_start_len'],
])('%s refuses %j', async (path, body, message) => {
  await expect(ask(alone.url, path, body)).rejects.toThrow(message)
})
