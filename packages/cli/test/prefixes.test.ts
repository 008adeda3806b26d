/** A conversation of several turns: what was computed before is neither computed nor moved again, and the answers are the same. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { pageGauges, patience, Process, withKey, startRouter } from './support/cluster.ts'

const pageTokens = 16
let processes: Process[] = []
let router: Process
let alone: Process

beforeAll(async () => {
  const start = (mode: string) =>
    Process.start([
      ...['serve', '--disaggregation-mode', mode, '--port', '0', '--verify-kv'],
      ...['--disaggregation-bootstrap-port', '0', '--context-length', '1024'],
      ...['--chunked-prefill-size', '64', '--page-size', String(pageTokens)],
    ])
  processes = await Promise.all(['prefill', 'decode', 'null'].map(start))
  const [prefill, decode, both] = processes as [Process, Process, Process]
  alone = both
  router = await startRouter(prefill, decode)
  processes.push(router)
}, patience)

afterAll(async () => {
  await Promise.all(processes.map((one) => one.stop()))
}, patience)

interface Answer {
  choices: [{ message: { content: string }; token_ids: number[] }]
  usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } }
  kvx: { transfer: { bytes: number; pages: number; prefixTokens: number } }
}
interface Message {
  role: string
  content: string
}

async function chat(url: string, messages: readonly Message[], max = 12): Promise<Answer> {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...withKey() },
    body: JSON.stringify({ messages, max_tokens: max, temperature: 0, return_token_ids: true }),
  })
  expect(response.status).toBe(200)
  return (await response.json()) as Answer
}

const flush = () =>
  Promise.all(
    processes.slice(0, 2).map(async ({ url }) => {
      const { status } = await fetch(`${url}/flush_cache`, { method: 'POST' })
      expect(status).toBe(200)
    }),
  )

const rows = 'The quick brown fox jumps over the lazy dog near the river bank. '
const questions = ['Repeat the second word.', 'And the third?', 'Who jumps?', 'Over what?']

test('each turn moves and computes only what is new, and its tokens are those of one process', async () => {
  await flush()
  const messages: Message[] = [{ role: 'system', content: rows.repeat(8) }]
  let before = 0
  let pageBytes = 0
  for (const content of questions) {
    messages.push({ role: 'user', content })
    const split = await chat(router.url, messages)
    const whole = await chat(alone.url, messages)
    expect(split.choices[0].token_ids).toEqual(whole.choices[0].token_ids)
    const { prompt_tokens: tokens, prompt_tokens_details: details } = split.usage
    const { bytes, pages, prefixTokens } = split.kvx.transfer
    // Whole pages of the prompt of the turn before are at both sides.
    const shared = Math.floor(before / pageTokens) * pageTokens
    expect([details.cached_tokens, prefixTokens]).toEqual([shared, shared])
    expect(pages).toBe(Math.ceil(tokens / pageTokens) - shared / pageTokens)
    pageBytes ||= bytes / pages
    // Of the last page only the tokens that it has may move.
    expect(bytes).toBeLessThanOrEqual(pages * pageBytes)
    messages.push({ role: 'assistant', content: split.choices[0].message.content })
    before = tokens
  }
  expect(before).toBeGreaterThan(180)
})

test('a prompt that is there as a whole moves no page, and its answer is the same', async () => {
  const length = 10 * pageTokens
  const prompt = Array.from({ length }, (_, i) => 300 + ((i * 37) % 9_000))
  const ask = async () => {
    const response = await fetch(`${router.url}/generate`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...withKey() },
      body: JSON.stringify({
        input_ids: prompt,
        sampling_params: { max_new_tokens: 8, temperature: 0 },
      }),
    })
    return (await response.json()) as {
      output_ids: number[]
      meta_info: { cached_tokens: number }
      kvx: { transfer: { bytes: number; prefixTokens: number } }
    }
  }
  const first = await ask()
  expect(first.meta_info.cached_tokens).toBe(0)
  expect(first.kvx.transfer.prefixTokens).toBe(0)
  const second = await ask()
  expect(second.output_ids).toEqual(first.output_ids)
  expect(second.kvx.transfer).toMatchObject({ prefixTokens: length, bytes: 0 })
  // The last tokens are computed once more: the first token of the answer comes from them.
  expect(second.meta_info.cached_tokens).toBe(length - pageTokens)
})

test('after a flush everything is computed and moved again', async () => {
  const messages = [{ role: 'user', content: rows.repeat(4) }]
  await chat(router.url, messages)
  const again = await chat(router.url, messages)
  expect(again.kvx.transfer.prefixTokens).toBeGreaterThan(0)
  await flush()
  const anew = await chat(router.url, messages)
  expect(anew.kvx.transfer.prefixTokens).toBe(0)
  expect(anew.usage.prompt_tokens_details.cached_tokens).toBe(0)
  expect(anew.choices[0].token_ids).toEqual(again.choices[0].token_ids)
})

test('conversations side by side share what they have in common, and all pages come back', async () => {
  const system = { role: 'system', content: rows.repeat(6) }
  const asked = Array.from({ length: 12 }, (_, i) => [
    system,
    { role: 'user', content: `Say ${String(i)}.` },
  ])
  const split = await Promise.all(asked.map((messages) => chat(router.url, messages, 4)))
  for (const [i, messages] of asked.entries()) {
    const whole = await chat(alone.url, messages, 4)
    expect(split[i]?.choices[0].token_ids).toEqual(whole.choices[0].token_ids)
  }
  for (const one of processes.slice(0, 2)) {
    expect(await pageGauges(one)).toMatchObject({ leased: 0, quarantined: 0 })
  }
})
