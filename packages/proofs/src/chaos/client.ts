/** One completion, asked for over a connection of its own, and everything that can become of it. */
import { get, request } from 'node:http'
import { text as textOf } from 'node:stream/consumers'
import { createParser } from 'eventsource-parser'

export interface ErrorBody {
  readonly code: string
  readonly message: string
  readonly phase?: string | null
  readonly peer?: string | null
  readonly rank?: string | null
  readonly retryable?: boolean
}

export type Outcome =
  | { readonly kind: 'ok'; readonly tokens: readonly number[] }
  | {
      readonly kind: 'error'
      readonly status: number
      readonly error: ErrorBody
      readonly tokens: readonly number[]
    }
  /** The connection ended before the answer did. */
  | { readonly kind: 'broken'; readonly reason: string; readonly tokens: readonly number[] }
  /** Nobody accepted the connection: there was no request. */
  | { readonly kind: 'refused' }
  /** We closed the connection. */
  | { readonly kind: 'aborted' }
  /** Nothing, or no further piece, came within `patienceMs`. */
  | { readonly kind: 'hung'; readonly tokens: readonly number[] }

interface Event {
  readonly error?: ErrorBody
  readonly choices?: readonly { readonly token_ids?: readonly number[] }[]
}

/** Never rejects. */
export function ask(
  url: string,
  body: { readonly stream: boolean; readonly [field: string]: unknown },
  { signal, patienceMs }: { signal: AbortSignal; patienceMs: number },
): Promise<Outcome> {
  return new Promise((resolve) => {
    const tokens: number[] = []
    let text = ''
    let done = false
    let failure: ErrorBody | undefined
    const end = (outcome: Outcome) => {
      clearTimeout(timer)
      signal.removeEventListener('abort', abort)
      resolve(outcome)
      call.destroy()
    }
    const call = request(`${url}/v1/completions`, {
      method: 'POST',
      agent: false,
      headers: { 'content-type': 'application/json' },
    })
    const timer = setTimeout(() => {
      end({ kind: 'hung', tokens })
    }, patienceMs)
    const abort = () => {
      end({ kind: 'aborted' })
    }
    signal.addEventListener('abort', abort, { once: true })
    const broken = (cause: NodeJS.ErrnoException) => {
      if (failure) end({ kind: 'error', status: 200, error: failure, tokens })
      else if (cause.code === 'ECONNREFUSED') end({ kind: 'refused' })
      else end({ kind: 'broken', reason: cause.code ?? cause.message, tokens })
    }
    call.on('error', broken)
    call.on('response', (response) => {
      const status = response.statusCode ?? 0
      // A prefill leg and an error that comes first are one JSON text, whatever was asked for.
      const streamed = response.headers['content-type']?.startsWith('text/event-stream') === true
      const take = (event: Event) => {
        failure ??= event.error
        tokens.push(...(event.choices?.[0]?.token_ids ?? []))
      }
      const events = createParser({
        onEvent: ({ data }) => {
          if (data === '[DONE]') done = true
          else take(JSON.parse(data) as Event)
        },
      })
      response.setEncoding('utf8').on('data', (part: string) => {
        timer.refresh()
        if (streamed) events.feed(part)
        else text += part
      })
      response.on('error', broken)
      response.on('end', () => {
        try {
          if (!streamed) take(JSON.parse(text) as Event)
        } catch {
          failure ??= { code: 'unreadable', message: text.slice(0, 200) }
        }
        if (failure) end({ kind: 'error', status, error: failure, tokens })
        else if (streamed && !done) end({ kind: 'broken', reason: 'ended early', tokens })
        else end({ kind: 'ok', tokens })
      })
    })
    call.end(JSON.stringify({ ...body, temperature: 0, return_token_ids: true }))
  })
}

/** The body of a GET over a connection of its own: a kept one may have died with the process behind it. */
export function read(url: string, timeoutMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    get(url, { agent: false, signal: AbortSignal.timeout(timeoutMs) }, (response) => {
      textOf(response).then(resolve, reject)
    }).on('error', reject)
  })
}
