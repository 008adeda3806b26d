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
  /** Without whom trying again may help: this worker, or its partner, as this worker was told. Undefined: with nobody. */
  readonly culprit: Culprit | undefined

  constructor(worker: Worker, http: HttpError, culprit?: Culprit) {
    super(`${worker.name}: ${http.body.error.message}`)
    this.worker = worker
    this.http = http
    this.culprit = culprit
  }
}

type Culprit = 'worker' | 'partner'

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

/** A failure has no more; what is longer is not one of ours. */
const failureBytes = 64 * 1024

/** The beginning of a text, up to so many bytes. It is read to its end all the same. */
async function textOf(chunks: AsyncIterable<Uint8Array>, most = failureBytes): Promise<string> {
  const bytes: Uint8Array[] = []
  let length = 0
  for await (const chunk of chunks) {
    length += chunk.byteLength
    if (length <= most) bytes.push(chunk)
  }
  return Buffer.concat(bytes).toString()
}

/**
 * Reads an answer to its end, for its end alone: a prefill worker sends its headers before it knows the outcome, and
 * tells a failure in the body.
 * @param most bytes that are returned of it
 * @throws LegFailure
 */
export async function drain(worker: Worker, answer: Answer, most = failureBytes): Promise<string> {
  try {
    const text = await textOf(answer.body, most)
    const failed = eventError(text)
    if (failed !== undefined) throw answered(worker, failed)
    return text
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
  if (isKvxError(cause)) {
    // Given up, since it has fallen silent.
    return new LegFailure(
      worker,
      httpError(cause),
      cause.code === 'ERR_KVX_PEER_LOST' ? 'worker' : undefined,
    )
  }
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
  return new LegFailure(worker, httpError(error), 'worker')
}

/** What the system said; fetch hides it one level down. */
function systemError(cause: unknown): Partial<NodeJS.ErrnoException> {
  const { cause: inner } = cause as { cause?: unknown }
  return (inner ?? cause) as NodeJS.ErrnoException
}

/** Of what may end better with another worker the one that tells it is the reason, unless it names a peer. */
function answered(worker: Worker, http: HttpError): LegFailure {
  const { code, peer, retryable } = http.body.error
  // What has taken its time to fail is not waited for once more.
  if (!retryable || http.status === 504) return new LegFailure(worker, http)
  // Decode names nobody then, so that strangers learn nothing.
  const ofPartner = peer !== null || code === 'ERR_KVX_BOOTSTRAP_UNREACHABLE'
  return new LegFailure(worker, http, ofPartner ? 'partner' : 'worker')
}

/** A worker of ours answers in OpenAI's shape; anything else is quoted. */
function workerError(worker: Worker, status: number, text: string): HttpError {
  const error = errorOf(text)
  if (error !== undefined) return { status, body: { error } }
  const message = `T${worker.name.slice(1)} answered ${String(status)}: ${text.slice(0, 200)}`
  return plainError(status, 'worker_error', message)
}

/**
 * The failure that a text is, such as the very first event of a stream: workers send their headers before they know
 * the outcome. As long as the client has seen nothing, it gets the failure's own status.
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
