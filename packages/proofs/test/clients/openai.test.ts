/** Do OpenAI's own clients understand what comes through a router, and do they get what one process answers? */
import OpenAI, { APIError } from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { patience, Process } from '../../../cli/test/support/cluster.ts'
import { program, pythonOutput } from './support/python.ts'
import { SglangRouter } from './support/sglang-router.ts'

let processes: Process[] = []
let alone: Process
const routers = new Map<string, { readonly url: string; stop(): Promise<void> }>()

beforeAll(async () => {
  processes = await Promise.all(
    ['prefill', 'decode', 'null'].map((mode) =>
      Process.start([
        ...['serve', '--disaggregation-mode', mode, '--port', '0'],
        ...['--disaggregation-bootstrap-port', '0', '--context-length', '512'],
      ]),
    ),
  )
  const [prefill, decode] = processes as [Process, Process]
  alone = processes[2]!
  const own = ['router', '--port', '0', '--prefill', prefill.url, '--decode', decode.url]
  routers.set("SGLang's router", await SglangRouter.start('router', prefill, decode))
  routers.set('kvx router', await Process.start(own))
}, patience)

afterAll(async () => {
  await Promise.all([...routers.values()].map((one) => one.stop()))
  await Promise.all(processes.map((one) => one.stop()))
}, patience)

const ask = { model: 'smollm2', temperature: 0, max_tokens: 12 }
const messages = [{ role: 'user' as const, content: 'Name a colour.' }]
const prompt = 'The capital of France is'

/** What `openai_client.py` asks, by the client for JavaScript. */
async function javascript(url: string): Promise<object> {
  const client = new OpenAI({
    baseURL: `${url}/v1`,
    apiKey: 'none',
    maxRetries: 0,
    timeout: 60_000,
  })
  const chat = await client.chat.completions.create({ ...ask, messages })
  const chatStream = { text: '', usage: null as object | null }
  const options = { stream: true, stream_options: { include_usage: true } } as const
  for await (const chunk of await client.chat.completions.create({
    ...ask,
    messages,
    ...options,
  })) {
    for (const { delta } of chunk.choices) chatStream.text += delta.content ?? ''
    chatStream.usage = counts(chunk.usage) ?? chatStream.usage
  }
  const helper = client.chat.completions.stream({ ...ask, messages, stop: [' '] })
  const completion = await client.completions.create({ ...ask, prompt })
  const completionStream = { text: '' }
  for await (const chunk of await client.completions.create({ ...ask, prompt, stream: true })) {
    for (const { text } of chunk.choices) completionStream.text += text
  }
  const refused = await client.completions
    .create({ ...ask, prompt, echo: true })
    .catch((cause: unknown) => cause as APIError)
  return {
    chat: { text: chat.choices[0]?.message.content, usage: counts(chat.usage) },
    chatStream,
    chatHelper: { text: (await helper.finalChatCompletion()).choices[0]?.message.content },
    completion: { text: completion.choices[0]?.text },
    completionStream,
    refused: { status: refused instanceof APIError ? refused.status : undefined },
  }
}

const counts = (usage: OpenAI.CompletionUsage | null | undefined) =>
  usage ? [usage.prompt_tokens, usage.completion_tokens] : null

const clients = {
  'OpenAI for JavaScript': javascript,
  'OpenAI for Python': async (url: string) =>
    JSON.parse(await pythonOutput([program('openai_client.py'), url])) as object,
}

describe.each(["SGLang's router", 'kvx router'])('through %s', (name) => {
  test.each(Object.entries(clients))(
    '%s gets the answers of one process, streamed and not, and refusals as such',
    async (_, client) => {
      const expected = await client(alone.url)
      expect(expected).toMatchObject({ refused: { status: 400 } })
      expect(await client(routers.get(name)!.url)).toEqual(expected)
    },
  )
})

test('the answer of both clients is one and the same', async () => {
  const [one, other] = await Promise.all(Object.values(clients).map((client) => client(alone.url)))
  expect(one).toEqual(other)
  expect(one).toMatchObject({ chatStream: { usage: [expect.any(Number), expect.any(Number)] } })
})
