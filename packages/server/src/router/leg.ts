/** One of the two requests that a completion becomes. */
import { isErrorCode, KvxError } from '@kvx/core/backend'
import { httpError, statusOf, type HttpError } from '../http/errors.ts'
import { parseJson } from '../http/json.ts'

/** An answer of a worker that is passed on as it came: status, content type, and the first bytes. */
export interface Answer {
  readonly status: number
  readonly contentType: string
  readonly first: Uint8Array | undefined
  /** What follows `first`. */
  readonly rest: ReadableStreamDefaultReader<Uint8Array>
}

/** A leg that failed, with what the client is to be told. */
export class LegFailure extends Error {
  override readonly name = 'LegFailure'
  readonly http: HttpError

  constructor(leg: string, http: HttpError) {
    super(`${leg}: ${http.body.error.message}`)
    this.http = http
  }
}

/**
 * Sends a leg and waits for the first byte of its answer.
 * @throws LegFailure when the worker cannot be reached, refuses, or fails before it has answered anything
 */
export async function openLeg(
  leg: 'prefill' | 'decode',
  url: string,
  body: string,
  headers: Record<string, string>,
  signal: AbortSignal,
): Promise<Answer> {
  try {
    const response = await fetch(`${url}/v1/completions`, { method: 'POST', body, headers, signal })
    if (!response.ok || response.body === null) {
      throw new LegFailure(leg, workerError(leg, response.status, await response.text()))
    }
    // Node's types leave the chunks of a response open.
    const rest = (response.body as ReadableStream<Uint8Array>).getReader()
    const { value: first } = await rest.read()
    const failed = first === undefined ? undefined : eventError(first)
    if (failed !== undefined) throw new LegFailure(leg, failed)
    const contentType = response.headers.get('content-type') ?? 'application/octet-stream'
    return { status: response.status, contentType, first, rest }
  } catch (cause) {
    if (cause instanceof LegFailure) throw cause
    throw new LegFailure(leg, httpError(unreachable(leg, url, cause)))
  }
}

/** Reads an answer to its end, for its end alone. */
export async function drain(answer: Answer): Promise<void> {
  while (!(await answer.rest.read()).done);
}

export function unreachable(leg: string, url: string, cause: unknown): KvxError {
  // fetch hides the system's reason one level down.
  const reason = (cause as { cause?: { message?: string } }).cause?.message
  const text = reason ?? (cause instanceof Error ? cause.message : String(cause))
  return new KvxError(
    'ERR_KVX_CONNECT_FAILED',
    `The ${leg} worker at ${url} could not be reached or broke off: ${text}.`,
    { cause, peer: url },
  )
}

/** A worker of ours answers in OpenAI's shape; anything else is quoted. */
function workerError(leg: string, status: number, text: string): HttpError {
  const error = errorOf(text)
  if (error !== undefined) return { status, body: { error } }
  const message = `The ${leg} worker answered ${String(status)}: ${text.slice(0, 200)}`
  return { status, body: { error: { message, type: 'server_error', code: 'worker_error' } } }
}

/**
 * The failure in a stream whose very first event is one. Decode sends its headers before it knows
 * the outcome; as long as the client has seen nothing, it gets the failure's own status.
 */
function eventError(first: Uint8Array): HttpError | undefined {
  const text = new TextDecoder().decode(first)
  if (!text.startsWith('data: {"error":')) return undefined
  const error = errorOf(text.slice('data: '.length, text.indexOf('\n')))
  if (error === undefined) return undefined
  const status = isErrorCode(error.code) ? statusOf(new KvxError(error.code, '')) : 500
  return { status, body: { error } }
}

function errorOf(text: string): HttpError['body']['error'] | undefined {
  try {
    const { error } = parseJson(text) as Partial<HttpError['body']>
    const { message, type, code } = error ?? {}
    if (typeof message === 'string' && typeof type === 'string' && typeof code === 'string') {
      return { message, type, code }
    }
  } catch {
    // Not JSON: the caller has its own words for that.
  }
  return undefined
}
