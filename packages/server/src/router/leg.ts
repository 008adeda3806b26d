/** One of the two requests that a client's request becomes. */
import { errorTable, isErrorCode, isKvxError, KvxError } from '@kvx/contract'
import {
  httpError,
  plainError,
  statusOf,
  type ErrorObject,
  type HttpError,
} from '../http/errors.ts'
import { parseJson } from '../http/json.ts'
import { readBeginning } from './first-event.ts'
import { bytesOf, post } from './post.ts'
import type { Worker } from './workers.ts'

/** An answer of a worker that is passed on as it came. */
export interface Answer {
  readonly status: number
  readonly contentType: string
  /** From the first byte on. */
  readonly body: AsyncGenerator<Uint8Array, void>
}

/** A leg that failed, with what the client is to be told. */
export class LegFailure extends Error {
  override readonly name = 'LegFailure'
  readonly worker: Worker
  readonly http: HttpError
  /**
   * Who refused it before anything was done, if so: this worker, which was not there or about to end,
   * or its partner, as this worker was told.
   */
  readonly refusal: 'worker' | 'partner' | undefined

  constructor(worker: Worker, http: HttpError, refusal?: 'worker' | 'partner') {
    super(`${worker.name}: ${http.body.error.message}`)
    this.worker = worker
    this.http = http
    this.refusal = refusal
  }
}

/**
 * Sends a leg and waits for the first byte of its answer, or the first event of a stream.
 * @throws LegFailure when the worker cannot be reached, refuses, or fails before it has answered anything
 */
export async function openLeg(
  worker: Worker,
  path: string,
  body: Buffer,
  headers: Record<string, string>,
  signal: AbortSignal,
): Promise<Answer> {
  try {
    const response = await post(`${worker.url}${path}`, body, headers, signal)
    const { statusCode: status = 0 } = response
    const chunks = bytesOf(response, signal)
    if (status < 200 || status > 299) {
      throw answered(worker, workerError(worker, status, await textOf(chunks)))
    }
    const contentType = response.headers['content-type'] ?? 'application/octet-stream'
    const { bytes, event } = await readBeginning(contentType, chunks)
    const failed = event === undefined ? undefined : eventError(event)
    if (failed !== undefined) {
      response.destroy()
      throw answered(worker, failed)
    }
    return { status, contentType, body: joined(bytes, chunks) }
  } catch (cause) {
    throw legFailure(worker, cause)
  }
}

async function* joined(
  first: readonly Uint8Array[],
  rest: AsyncGenerator<Uint8Array, void>,
): AsyncGenerator<Uint8Array, void> {
  yield* first
  yield* rest
}

/** Of a refusal; what is longer is not one of ours. */
async function textOf(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const bytes: Uint8Array[] = []
  let length = 0
  for await (const chunk of chunks) {
    bytes.push(chunk)
    length += chunk.byteLength
    if (length > 64 * 1024) break
  }
  return Buffer.concat(bytes).toString()
}

/**
 * Reads an answer to its end, for its end alone.
 * @throws LegFailure
 */
export async function drain(worker: Worker, answer: Answer): Promise<void> {
  try {
    while (!(await answer.body.next()).done);
  } catch (cause) {
    throw legFailure(worker, cause)
  }
}

/** System errors of a connection that was never made, so that the worker knows nothing of the request. */
const neverConnected = new Set([
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EHOSTDOWN',
  'ENOTFOUND',
  'EAI_AGAIN',
])

/** What was thrown while a worker was asked, as the failure of its leg. */
export function legFailure(worker: Worker, cause: unknown): LegFailure {
  if (cause instanceof LegFailure) return cause
  if (isKvxError(cause)) return new LegFailure(worker, httpError(cause))
  const { code = '', syscall, message } = systemError(cause)
  const refused = neverConnected.has(code) || (code === 'ETIMEDOUT' && syscall === 'connect')
  const how = refused ? 'could not be reached' : 'broke off'
  // The message of several refused addresses is empty.
  const said = [message, code].find((text) => text !== undefined && text !== '')
  const reason = said ?? String(cause)
  const error = new KvxError(
    refused ? 'ERR_KVX_CONNECT_FAILED' : 'ERR_KVX_PEER_LOST',
    `T${worker.name.slice(1)} ${how}: ${reason}.`,
    {
      cause,
      phase: refused ? 'open' : worker.role === 'prefill' ? 'transfer' : 'decode',
      peer: worker.url,
    },
  )
  return new LegFailure(worker, httpError(error), refused ? 'worker' : undefined)
}

/** What the system said; fetch hides it one level down. */
function systemError(cause: unknown): Partial<NodeJS.ErrnoException> {
  const { cause: inner } = cause as { cause?: unknown }
  return (inner ?? cause) as NodeJS.ErrnoException
}

/** A worker that is about to end says so itself, without naming a peer, or of its partner, which it names. */
function answered(worker: Worker, http: HttpError): LegFailure {
  const { code, peer } = http.body.error
  const refusal =
    code !== 'ERR_KVX_DRAINING' ? undefined : peer === null ? 'worker' : ('partner' as const)
  return new LegFailure(worker, http, refusal)
}

/** A worker of ours answers in OpenAI's shape; anything else is quoted. */
function workerError(worker: Worker, status: number, text: string): HttpError {
  const error = errorOf(text)
  if (error !== undefined) return { status, body: { error } }
  const message = `T${worker.name.slice(1)} answered ${String(status)}: ${text.slice(0, 200)}`
  return plainError(status, 'worker_error', message)
}

/**
 * The failure in a stream whose very first event is one. Decode sends its headers before it knows
 * the outcome; as long as the client has seen nothing, it gets the failure's own status.
 */
function eventError(event: string): HttpError | undefined {
  if (!event.startsWith('{"error":')) return undefined
  const error = errorOf(event)
  if (error === undefined) return undefined
  const status = isErrorCode(error.code) ? statusOf(new KvxError(error.code, '')) : 500
  return { status, body: { error } }
}

/** Phase and peer are null from a worker that does not tell them. */
function errorOf(text: string): ErrorObject | undefined {
  try {
    const { error } = parseJson(text) as { error?: Record<string, unknown> }
    const { message, type, code } = error ?? {}
    if (typeof message !== 'string' || typeof type !== 'string' || typeof code !== 'string') {
      return undefined
    }
    const textOrNull = (value: unknown) => (typeof value === 'string' ? value : null)
    return {
      ...{ message, type, code },
      phase: textOrNull(error?.phase),
      peer: textOrNull(error?.peer),
      rank: textOrNull(error?.rank),
      retryable: isErrorCode(code) ? errorTable[code].retryable : error?.retryable === true,
    }
  } catch {
    // Not JSON: the caller has its own words for that.
    return undefined
  }
}
