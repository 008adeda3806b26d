/** One completion, from its body to its last byte, tried again while its client has seen nothing of it. */
import { pipeline } from 'node:stream/promises'
import { setImmediate } from 'node:timers/promises'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { Log } from '@kvx/contract'
import { httpError } from '../http/errors.ts'
import { parseFields } from '../http/json.ts'
import { clientGone, fail, type AppContext } from '../http/server.ts'
import type { Chosen, Fleet } from './fleet.ts'
import { LegFailure, type Answer } from './leg.ts'
import type { RouterMetrics } from './metrics.ts'
import { throughDecode, throughPair, type Forwarded } from './pair.ts'
import { promptOf } from './prefixes.ts'
import type { Worker } from './workers.ts'

/** How often a request is tried again that a worker had taken: one that ends its workers must not end all of them. */
const maxRetries = 2

export interface Completing {
  readonly fleet: Fleet
  readonly metrics: RouterMetrics
  readonly log: Log
}

export async function complete(completing: Completing, c: AppContext): Promise<Response> {
  const { fleet, metrics, log } = completing
  const body = parseFields(await c.var.text())
  const gone = clientGone(c)
  await fleet.known
  // A long body is taken apart and written again in two turns of the event loop.
  await setImmediate()
  const request = { path: c.req.path, body, headers: forwarded(c), gone }
  const prompt = promptOf(body)
  const tried = new Set<Worker>()
  let failure: unknown
  let taken = 0
  for (;;) {
    const chosen = fleet.choose(prompt, tried)
    if (chosen === undefined) return failed(completing, c, failure ?? fleet.problems()[0])
    const { prefill, decode } = chosen
    if (failure !== undefined) metrics.retries.inc()
    if (prefill === undefined) metrics.local.inc({ reason: chosen.reason })
    fleet.remember(chosen, prompt)
    try {
      await send(request, chosen, (answer) => passOn(c, answer))
      metrics.requests.inc({ result: 'success' })
      return RESPONSE_ALREADY_SENT
    } catch (cause) {
      prefill?.forgetPort()
      const where = { prefill: prefill?.url, decode: decode.url }
      if (gone.aborted) {
        metrics.requests.inc({ result: 'cancelled' })
        log.debug(where, 'request.cancelled')
        return RESPONSE_ALREADY_SENT
      }
      log.warn({ ...where, ...facts(cause) }, 'request.failed')
      const culprit = culpritOf(cause, chosen)
      if (!wasRefused(cause)) taken++
      if (culprit === undefined || taken > maxRetries || c.env.outgoing.headersSent) {
        // One of them may be the reason. Nothing waits for what they say.
        for (const worker of [prefill, decode]) void worker?.look()
        return failed(completing, c, cause)
      }
      tried.add(culprit)
      failure = cause
      if (isAway(cause)) culprit.refused()
      else await culprit.look()
    }
  }
}

function send(
  request: Forwarded,
  { prefill, decode }: Chosen,
  deliver: (answer: Answer) => Promise<void>,
): Promise<void> {
  return prefill === undefined
    ? throughDecode(request, decode, deliver)
    : throughPair(request, prefill, decode, deliver)
}

function failed({ metrics }: Completing, c: AppContext, cause: unknown): Response {
  metrics.requests.inc({ result: 'failed' })
  // The client has part of an answer: cutting the connection is the only word left.
  if (c.env.outgoing.headersSent) {
    c.env.outgoing.destroy()
    return RESPONSE_ALREADY_SENT
  }
  const http = cause instanceof LegFailure ? cause.http : httpError(cause)
  metrics.failures.inc({ code: http.body.error.code })
  return fail(c, http)
}

/** The worker without which the request may succeed. */
function culpritOf(cause: unknown, { prefill, decode }: Chosen): Worker | undefined {
  if (!(cause instanceof LegFailure)) return undefined
  const { worker, culprit } = cause
  if (culprit !== 'partner') return culprit === undefined ? undefined : worker
  return worker === prefill ? decode : prefill
}

const codeOf = (cause: unknown) =>
  cause instanceof LegFailure ? cause.http.body.error.code : undefined

/** The worker is not there, or about to end: its next requests would fare no better. */
function isAway(cause: unknown): boolean {
  const code = codeOf(cause)
  return code === 'ERR_KVX_CONNECT_FAILED' || code === 'ERR_KVX_DRAINING'
}

/** Nothing was done for the request. */
function wasRefused(cause: unknown): boolean {
  return isAway(cause) || codeOf(cause) === 'ERR_KVX_OVER_LIMIT'
}

function facts(cause: unknown): object {
  if (!(cause instanceof LegFailure)) return { reason: String(cause) }
  return { worker: cause.worker.url, status: cause.http.status, ...cause.http.body.error }
}

async function passOn(c: AppContext, { status, contentType, body }: Answer): Promise<void> {
  const { outgoing } = c.env
  outgoing.writeHead(status, { 'content-type': contentType })
  await pipeline(body, outgoing)
}

/** Headers that identify or authorise a request end to end. */
function forwarded(c: AppContext): Record<string, string> {
  const headers: Record<string, string> = { 'content-type': 'application/json' }
  for (const name of ['authorization', 'x-request-id', 'x-correlation-id', 'traceparent']) {
    const value = c.req.header(name)
    if (value !== undefined) headers[name] = value
  }
  return headers
}
