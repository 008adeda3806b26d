/** One address in front of prefill and decode workers: a completion becomes two legs with one fate. */
import { pipeline } from 'node:stream/promises'
import { setImmediate } from 'node:timers/promises'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Counter, Gauge, Registry } from 'prom-client'
import { KvxError, silentLog, type Log } from '@kvx/contract'
import { Admission, within } from '../http/drain.ts'
import { httpError } from '../http/errors.ts'
import { parseFields, writeFields } from '../http/json.ts'
import { randomRoom } from '../http/room.ts'
import {
  clientGone,
  fail,
  json,
  listen,
  makeApp,
  type AppContext,
  type Draining,
  type HttpOptions,
  type Listening,
} from '../http/server.ts'
import { choose } from './balance.ts'
import { misfit, wrongAlone } from './fit.ts'
import { drain, legFailure, LegFailure, openLeg, type Answer } from './leg.ts'
import { ask, PrefillWorker, Worker } from './workers.ts'

export interface RouterOptions {
  /** Without a port the worker is asked for it. */
  readonly prefill: readonly { readonly url: string; readonly bootstrapPort?: number | undefined }[]
  readonly decode: readonly string[]
  /** Default 127.0.0.1 */
  readonly host?: string
  /** Default 0: any free port. */
  readonly port?: number
  /** Milliseconds. A worker that answers nothing for this long is given up. Default 15,000. */
  readonly workerSilentMs?: number
  /** Who may ask it over HTTP, and how. The workers are asked with the same key. */
  readonly http?: HttpOptions
  readonly log?: Log
}

/** @throws KvxError `ERR_KVX_INVALID_OPTION`, `ERR_KVX_ADDRESS_UNAVAILABLE` */
export async function startRouter(options: RouterOptions): Promise<Listening & Draining> {
  const log = options.log ?? silentLog
  const { apiKey } = options.http ?? {}
  const watched = {
    silentMs: options.workerSilentMs ?? 15_000,
    apiKey,
    log,
    onInfo: () => {
      told = tell(problems(), told)
    },
  }
  const prefills = options.prefill.map(
    ({ url, bootstrapPort }) => new PrefillWorker(url, bootstrapPort, watched),
  )
  const decodes = options.decode.map((url) => new Worker('decode', url, watched))
  const workers = [...prefills, ...decodes]
  if (prefills.length === 0 || decodes.length === 0) {
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      'A router needs at least one prefill worker and one decode worker.',
    )
  }
  /** What the log says is wrong at present. */
  let told: readonly string[] = []

  /** Why workers are of no use, alone or as a pair, each reason once. */
  function problems(): KvxError[] {
    const pairs = prefills.flatMap((prefill) => decodes.map((decode) => misfit(prefill, decode)))
    const found = [...workers.map(wrongAlone), ...pairs].filter((error) => error !== undefined)
    return [...new Map(found.map((error) => [error.message, error])).values()]
  }

  function tell(found: readonly KvxError[], before: readonly string[]): string[] {
    for (const { code, message } of found)
      if (!before.includes(message)) log.error({ code }, message)
    const after = found.map(({ message }) => message)
    if (before.length > 0 && after.length === 0) log.info({}, 'all workers fit together now')
    return after
  }

  /** Of the workers that are left: those that fit together, the least busy of each. */
  function choosePair(refused: ReadonlySet<Worker>) {
    const fits = (prefill: Worker, decode: Worker) =>
      !refused.has(decode) && misfit(prefill, decode) === undefined
    const prefill = choose(
      prefills.filter((p) => decodes.some((d) => fits(p, d))),
      turn,
      refused,
    )
    if (prefill === undefined) return undefined
    const decode = choose(
      decodes.filter((d) => fits(prefill, d)),
      turn,
      refused,
    )
    return decode && { prefill, decode }
  }

  const registry = new Registry()
  const requests = new Counter({
    name: 'kvx_router_requests_total',
    help: 'Completions by how they ended: success, failed, or cancelled by the client.',
    labelNames: ['result'],
    registers: [registry],
  })
  const failures = new Counter({
    name: 'kvx_failures_total',
    help: 'Failed completions by error code.',
    labelNames: ['code'],
    registers: [registry],
  })
  const retries = new Counter({
    name: 'kvx_router_retries_total',
    help: 'Completions that went to another pair of workers because one had refused before it began.',
    registers: [registry],
  })
  new Gauge({
    name: 'kvx_router_requests_live',
    help: 'Completions that a worker is working on.',
    labelNames: ['role', 'worker'],
    registers: [registry],
    collect() {
      for (const { role, url, live } of workers) {
        this.set({ role, worker: url }, live)
      }
    },
  })
  const app = makeApp(registry, (code) => {
    if (code !== 'ERR_KVX_ABORTED') failures.inc({ code })
  })
  const admission = new Admission('router')
  let turn = 0

  for (const path of ['/v1/completions', '/v1/chat/completions', '/generate']) {
    app.post(path, (c) => admission.run(c, () => complete(c)))
  }

  async function complete(c: AppContext): Promise<Response> {
    const body = parseFields(await c.var.text())
    const gone = clientGone(c)
    await firstLooks
    // A long body is taken apart and written again in two turns of the event loop.
    await setImmediate()
    const refused = new Set<Worker>()
    let refusal: unknown
    for (;;) {
      const chosen = choosePair(refused)
      turn++
      if (chosen === undefined) return failed(c, refusal ?? problems()[0])
      const { prefill, decode } = chosen
      if (refusal !== undefined) retries.inc()
      try {
        await pair(c, body, prefill, decode, gone)
        requests.inc({ result: 'success' })
        return RESPONSE_ALREADY_SENT
      } catch (cause) {
        prefill.forgetPort()
        if (gone.aborted) {
          requests.inc({ result: 'cancelled' })
          log.debug({ prefill: prefill.url, decode: decode.url }, 'request.cancelled')
          return RESPONSE_ALREADY_SENT
        }
        log.warn({ prefill: prefill.url, decode: decode.url, ...facts(cause) }, 'request.failed')
        const by = refusedBy(cause, prefill, decode)
        if (by === undefined) {
          // One of them may be the reason. Nothing waits for what they say.
          for (const worker of [prefill, decode]) void worker.look()
          return failed(c, cause)
        }
        by.refused()
        refused.add(by)
        refusal = cause
      }
    }
  }

  function failed(c: AppContext, cause: unknown): Response {
    requests.inc({ result: 'failed' })
    // The client has part of an answer: cutting the connection is the only word left.
    if (c.env.outgoing.headersSent) {
      c.env.outgoing.destroy()
      return RESPONSE_ALREADY_SENT
    }
    const http = cause instanceof LegFailure ? cause.http : httpError(cause)
    failures.inc({ code: http.body.error.code })
    return fail(c, http)
  }

  app.get('/v1/models', async (c) => {
    await firstLooks
    const problem = problems()[0]
    if (choosePair(new Set()) === undefined && problem !== undefined) throw problem
    let last: unknown
    for (const { url } of decodes) {
      try {
        return json(c, withLeast(await ask(`${url}/v1/models`, { apiKey }), workers))
      } catch (cause) {
        last = cause
      }
    }
    throw new KvxError('ERR_KVX_CONNECT_FAILED', 'No decode worker answers.', { cause: last })
  })

  app.get('/health', async (c) => {
    const states = await Promise.all(
      workers.map(async (worker) => {
        const { role, url } = worker
        return { role, url, healthy: await worker.look() }
      }),
    )
    const ready = prefills.some(
      (prefill) =>
        prefill.healthy &&
        decodes.some((decode) => decode.healthy && misfit(prefill, decode) === undefined),
    )
    const status = admission.draining ? 'draining' : ready ? 'ok' : 'unavailable'
    const wrong = problems().map(({ code, message }) => ({ code, message }))
    const body = { status, workers: states, ...(wrong.length > 0 && { problems: wrong }) }
    return json(c, body, status === 'ok' ? 200 : 503)
  })

  // What does not fit is in the log before the first request, if the workers are there.
  const firstLooks = Promise.all(workers.map((worker) => worker.look()))
  const listening = await listen(app, {
    host: options.host ?? '127.0.0.1',
    port: options.port ?? 0,
    ...{ http: options.http, log },
  })
  return {
    ...listening,
    async drain(deadlineMs) {
      admission.drain()
      listening.endIdle()
      return within(deadlineMs, admission.idle())
    },
    async close() {
      for (const worker of workers) worker.close()
      await listening.close()
    },
  }
}

/** What decode tells of its models, with the length that every worker can take. */
function withLeast(models: unknown, workers: readonly Worker[]): unknown {
  const { data } = models as { data?: unknown }
  if (!Array.isArray(data)) return models
  const lengths = workers.flatMap(({ info }) => info?.contextLength ?? [])
  const least = (model: { max_model_len?: number }) => ({
    ...model,
    max_model_len: Math.min(model.max_model_len ?? Infinity, ...lengths),
  })
  return { ...(models as object), data: lengths.length === 0 ? data : data.map(least) }
}

/** The worker that refused a request before anything was done for it, if that is why it failed. */
function refusedBy(cause: unknown, prefill: Worker, decode: Worker): Worker | undefined {
  if (!(cause instanceof LegFailure)) return undefined
  const { worker, refusal } = cause
  if (refusal === undefined) return undefined
  if (refusal === 'worker') return worker
  return worker === prefill ? decode : prefill
}

function facts(cause: unknown): object {
  if (!(cause instanceof LegFailure)) return { reason: String(cause) }
  return { worker: cause.worker.url, status: cause.http.status, ...cause.http.body.error }
}

/**
 * Sends both legs at once and passes decode's answer on. Whatever fails first ends both.
 * @throws LegFailure; something else once decode's answer has begun to leave
 */
function pair(
  c: AppContext,
  body: ReadonlyMap<string, string>,
  prefill: PrefillWorker,
  decode: Worker,
  gone: AbortSignal,
): Promise<void> {
  return decode.during(async (decodeLost) => {
    const over = new AbortController()
    const either = AbortSignal.any([gone, over.signal])
    try {
      const port = await prefill.port(either).catch((cause: unknown) => {
        throw legFailure(prefill, cause)
      })
      // The bytes of both legs are the same ones.
      const bytes = Buffer.from(
        writeFields(
          new Map([
            ...body,
            ['bootstrap_host', JSON.stringify(prefill.host)],
            ['bootstrap_port', String(port)],
            ['bootstrap_room', String(randomRoom())],
          ]),
        ),
      )
      const headers = forwarded(c)
      const prefilled = prefill.during(async (lost) => {
        const signal = AbortSignal.any([either, lost])
        await drain(prefill, await openLeg(prefill, c.req.path, bytes, headers, signal))
      })
      const answer = openLeg(
        decode,
        c.req.path,
        bytes,
        headers,
        AbortSignal.any([either, decodeLost]),
      )
      // Each may fail after the other has decided the race; that failure is then nobody's news.
      prefilled.catch(() => undefined)
      answer.catch(() => undefined)
      // Decode's first byte means that the cache has arrived: prefill cannot spoil anything after it.
      await Promise.race([answer, prefilled.then(() => answer)])
      await passOn(c, await answer)
    } catch (cause) {
      over.abort(cause)
      throw cause
    }
  })
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
