/** A streaming client of `/v1/completions`, as far as `kvx up --once` needs one. */
import { isErrorCode, KvxError } from '@kvx/contract'

export interface Answer {
  readonly text: string
  readonly tokens: readonly number[]
  readonly promptTokens: number
  readonly evaluatedTokens: number
  readonly transfer: Moved | undefined
  /** From the request to the first token. */
  readonly ttftMs: number
}

export interface Moved {
  readonly pages: number
  readonly bytes: number
  readonly chunks: number
  readonly ms: number
  readonly backend: string
}

export interface Question {
  readonly prompt: string
  readonly maxTokens: number
  readonly temperature: number
  readonly seed: number
  /** Of the server, when it has one. */
  readonly apiKey: string | undefined
}

interface Event {
  readonly error?: { readonly message: string; readonly code: string }
  readonly choices?: readonly { readonly text: string; readonly token_ids?: readonly number[] }[]
  readonly kvx?: {
    readonly prompt_tokens: number
    readonly evaluated_tokens: number
    readonly transfer?: Moved
  }
}

/** @throws KvxError with the server's code and message */
export async function complete(
  url: string,
  { prompt, maxTokens, temperature, seed, apiKey }: Question,
  onText: (text: string) => void,
  signal: AbortSignal,
): Promise<Answer> {
  const start = performance.now()
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
    },
    body: JSON.stringify({
      prompt,
      max_tokens: maxTokens,
      temperature,
      seed,
      stream: true,
      stream_options: { include_usage: true },
      return_token_ids: true,
    }),
    signal,
  })
  if (!response.ok || response.body === null) throw failure(await response.json())
  let text = ''
  let ttftMs: number | undefined
  let summary: Event['kvx']
  const tokens: number[] = []
  for await (const event of events(response.body)) {
    if (event.error !== undefined) throw failure(event)
    const [choice] = event.choices ?? []
    if (choice !== undefined) {
      ttftMs ??= performance.now() - start
      text += choice.text
      tokens.push(...(choice.token_ids ?? []))
      onText(choice.text)
    }
    summary = event.kvx ?? summary
  }
  if (summary === undefined || ttftMs === undefined) {
    throw new KvxError('ERR_KVX_PROTOCOL', `The answer of ${url} ended before it was complete.`)
  }
  return {
    text,
    tokens,
    promptTokens: summary.prompt_tokens,
    evaluatedTokens: summary.evaluated_tokens,
    transfer: summary.transfer,
    ttftMs,
  }
}

async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<Event> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true })
    for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
      const data = rest.slice('data: '.length, end)
      rest = rest.slice(end + 2)
      if (data !== '[DONE]') yield JSON.parse(data) as Event
    }
  }
}

function failure(body: unknown): KvxError {
  const { error } = body as Event
  const code = isErrorCode(error?.code) ? error.code : 'ERR_KVX_INTERNAL'
  return new KvxError(code, error?.message ?? 'The server answered with an error it did not name.')
}
