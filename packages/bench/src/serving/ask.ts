/** A client of `/v1/completions` that times every token. */
import { Agent, request, type IncomingMessage } from 'node:http'
import { createParser } from 'eventsource-parser'

export interface Question {
  readonly prompt: readonly number[] | string
  readonly maxTokens: number
  /** The answer ends with the model's own word. Default: it has exactly `maxTokens`. */
  readonly endsByItself?: boolean
}

/** What crossed before the first token. */
export interface Moved {
  readonly pages: number
  readonly bytes: number
  readonly chunks: number
  /** Milliseconds in which bytes were on their way. */
  readonly ms: number
  /** Milliseconds that the prompt waited for pages at either side, and for the model of prefill. */
  readonly queueMs: number
  readonly backend: string
}

export interface Answer {
  readonly tokens: readonly number[]
  readonly text: string
  readonly promptTokens: number
  /** Milliseconds from the request to the first token. */
  readonly ttftMs: number
  /** Milliseconds between one token and the next. */
  readonly gaps: readonly number[]
  /** Milliseconds from the request to the end. */
  readonly ms: number
  /** Nothing crosses in one process. */
  readonly transfer: Moved | undefined
}

/** `code` is that of kvx, or `connection`, `timeout`, `aborted`, `unreadable`. */
export type Outcome =
  | { readonly ok: true; readonly answer: Answer }
  | { readonly ok: false; readonly status: number; readonly code: string; readonly message: string }

interface Event {
  readonly error?: { readonly code?: string | null; readonly message: string }
  readonly choices?: readonly { readonly text: string; readonly token_ids?: readonly number[] }[]
  readonly kvx?: {
    readonly prompt_tokens: number
    readonly transfer?: Moved
  }
}

export interface AskOptions {
  readonly signal?: AbortSignal | undefined
  /** For the whole answer. */
  readonly deadlineMs: number
}

const agent = new Agent({ keepAlive: true })

/** Never rejects. */
export function ask(
  url: string,
  { prompt, maxTokens, endsByItself = false }: Question,
  { signal, deadlineMs }: AskOptions,
): Promise<Outcome> {
  return new Promise((resolve) => {
    const began = performance.now()
    const tokens: number[] = []
    const times: number[] = []
    let text = ''
    let summary: Event['kvx']
    let refusal: { code: string; message: string } | undefined
    const end = (outcome: Outcome): void => {
      clearTimeout(late)
      signal?.removeEventListener('abort', abort)
      resolve(outcome)
      if (!outcome.ok) call.destroy()
    }
    const failed = (code: string, message: string, status = 0): void => {
      end({ ok: false, status, code, message })
    }
    const call = request(`${url}/v1/completions`, {
      method: 'POST',
      agent,
      headers: { 'content-type': 'application/json' },
    })
    const late = setTimeout(() => {
      failed('timeout', `No whole answer came within ${String(deadlineMs)} ms.`)
    }, deadlineMs)
    const abort = (): void => {
      failed('aborted', 'The run was ended.')
    }
    if (signal?.aborted === true) abort()
    signal?.addEventListener('abort', abort, { once: true })
    const take = (event: Event): void => {
      const { error, choices = [], kvx } = event
      if (error !== undefined) refusal ??= { code: error.code ?? 'unnamed', message: error.message }
      const [choice] = choices
      text += choice?.text ?? ''
      for (const token of choice?.token_ids ?? []) {
        tokens.push(token)
        times.push(performance.now())
      }
      summary = kvx ?? summary
    }
    const conclude = (status: number): void => {
      const [first] = times
      if (refusal !== undefined) failed(refusal.code, refusal.message, status)
      else if (summary === undefined || first === undefined) {
        failed('connection', 'The answer ended before it was complete.', status)
      } else {
        const answer = {
          ...{ tokens, text, promptTokens: summary.prompt_tokens, ttftMs: first - began },
          gaps: times.slice(1).map((time, i) => time - times[i]!),
          ms: performance.now() - began,
          transfer: summary.transfer,
        }
        end({ ok: true, answer })
      }
    }
    call.on('error', (cause: NodeJS.ErrnoException) => {
      failed('connection', cause.code ?? cause.message)
    })
    call.on('response', (response) => {
      read(response, take).then(
        () => {
          conclude(response.statusCode ?? 0)
        },
        (cause: unknown) => {
          failed('unreadable', (cause as Error).message, response.statusCode)
        },
      )
    })
    call.end(
      JSON.stringify({
        ...{ prompt, max_tokens: maxTokens, temperature: 0, ignore_eos: !endsByItself },
        ...{ stream: true, stream_options: { include_usage: true }, return_token_ids: true },
      }),
    )
  })
}

/** An error that comes before the first token is one JSON text, whatever was asked for. */
async function read(response: IncomingMessage, take: (event: Event) => void): Promise<void> {
  response.setEncoding('utf8')
  if (response.headers['content-type']?.startsWith('text/event-stream') !== true) {
    let whole = ''
    for await (const part of response) whole += String(part)
    take(JSON.parse(whole) as Event)
    return
  }
  const events = createParser({
    onEvent: ({ data }) => {
      if (data !== '[DONE]') take(JSON.parse(data) as Event)
    },
  })
  for await (const part of response) events.feed(String(part))
}

/** What is told of an answer in every report. */
export const numbersOf = ({ ttftMs, gaps, transfer }: Answer) => ({
  ...{ ttftMs, gapsMs: gaps },
  ...(transfer && { queueMs: transfer.queueMs, wireMs: transfer.ms, bytes: transfer.bytes }),
})

export const sameTokens = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((token, i) => token === b[i])
