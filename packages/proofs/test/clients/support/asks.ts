/** The same question by each interface, and what an answer to it says, streamed or not. */

export interface Ask {
  readonly path: string
  readonly body: object
}

const sampling = { max_new_tokens: 12, temperature: 0, ignore_eos: true }
const openAi = { model: 'smollm2', max_tokens: 12, temperature: 0, ignore_eos: true }
const ids = [
  [504, 3575, 282, 4649, 314],
  Array.from({ length: 70 }, (_, i) => 300 + i * 13),
  [19556, 28],
]
const messages = [{ role: 'user', content: 'Name a colour.' }]

/** SGLang's Rust router takes lists of token ids, but no list of texts, and of completions no token ids at all. */
export const asks: Readonly<Record<string, Ask>> = {
  '/generate with one prompt': {
    path: '/generate',
    body: { text: 'The capital of France is', sampling_params: sampling },
  },
  '/generate with three prompts': {
    path: '/generate',
    body: { input_ids: ids, sampling_params: sampling },
  },
  '/generate with two answers': {
    path: '/generate',
    body: { text: 'Once upon a time', sampling_params: { ...sampling, n: 2 } },
  },
  '/v1/completions with one prompt': {
    path: '/v1/completions',
    body: { ...openAi, prompt: 'The capital of France is' },
  },
  '/v1/completions with three prompts': {
    path: '/v1/completions',
    body: { ...openAi, prompt: ['The capital of France is', 'One, two,', 'Once upon a time'] },
  },
  '/v1/chat/completions': { path: '/v1/chat/completions', body: { ...openAi, messages } },
  '/v1/chat/completions with two answers': {
    path: '/v1/chat/completions',
    body: { ...openAi, messages, n: 2 },
  },
}

/** One answer: its text, and its tokens where the interface tells them. */
export interface Told {
  readonly text: string
  readonly tokens: readonly number[] | undefined
}

interface Choice {
  readonly index: number
  readonly text?: string
  readonly delta?: { readonly content?: string }
  readonly message?: { readonly content: string }
}

interface Generated {
  readonly index?: number
  readonly text: string
  readonly output_ids: readonly number[]
}

/** Answers in the order of their prompts. Rejects when the status says so, or the stream does not end as it should. */
export async function answersOf(url: string, ask: Ask, stream: boolean): Promise<readonly Told[]> {
  const response = await post(url, ask, stream)
  const text = await response.text()
  if (!response.ok) throw new Error(`${String(response.status)} ${text}`)
  const parts = stream ? eventsOf(text) : ([JSON.parse(text)].flat() as object[])
  return ask.path === '/generate' ? generated(parts as Generated[], stream) : chosen(parts)
}

/** Milliseconds after which a request counts as hanging. */
const hangs = 30_000

export function post(url: string, { path, body }: Ask, stream: boolean): Promise<Response> {
  return fetch(`${url}${path}`, {
    method: 'POST',
    signal: AbortSignal.timeout(hangs),
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream }),
  })
}

function eventsOf(text: string): object[] {
  const events = text.split('\n\n').filter((event) => event !== '')
  if (events.pop() !== 'data: [DONE]') throw new Error(`the stream has no end: ${text}`)
  return events.map((event) => JSON.parse(event.replace(/^data: /, '')) as object)
}

/** Each event tells all of its answer that has come; without a stream they follow one another. */
function generated(parts: readonly Generated[], stream: boolean): Told[] {
  const told: Told[] = []
  parts.forEach(({ index, text, output_ids: tokens }, position) => {
    told[stream ? (index ?? 0) : position] = { text, tokens }
  })
  return told
}

function chosen(parts: readonly object[]): Told[] {
  const texts: string[] = []
  for (const { choices } of parts as { choices: readonly Choice[] }[]) {
    for (const { index, text, delta, message } of choices) {
      texts[index] = (texts[index] ?? '') + (text ?? delta?.content ?? message?.content ?? '')
    }
  }
  return texts.map((text) => ({ text, tokens: undefined }))
}
