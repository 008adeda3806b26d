/** One address in front of prefill and decode workers: a completion becomes two legs with one fate. */
import { once } from 'node:events'
import { randomBytes } from 'node:crypto'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { Counter, Gauge, Registry } from 'prom-client'
import { KvxError, silentLog, toKvxError, type Log } from '@kvx/core/backend'
import { httpError } from '../http/errors.ts'
import { parseJsonVerbatim, toJson } from '../http/json.ts'
import {
  clientGone,
  json,
  listen,
  makeApp,
  type AppContext,
  type Listening,
} from '../http/server.ts'
import { leastLoaded } from './balance.ts'
import { drain, LegFailure, openLeg, type Answer } from './leg.ts'
import { ask, decodeWorker, prefillWorker, type PrefillWorker, type Worker } from './workers.ts'

export interface RouterOptions {
  /** Without a port the worker is asked for it. */
  readonly prefill: readonly { readonly url: string; readonly bootstrapPort?: number | undefined }[]
  readonly decode: readonly string[]
  /** Default 127.0.0.1 */
  readonly host?: string
  /** Default 0: any free port. */
  readonly port?: number
  readonly log?: Log
}

/** @throws KvxError `ERR_KVX_INVALID_OPTION`, `ERR_KVX_ADDRESS_UNAVAILABLE` */
export async function startRouter(options: RouterOptions): Promise<Listening> {
  const prefills = options.prefill.map(({ url, bootstrapPort }) =>
    prefillWorker(url, bootstrapPort),
  )
  const decodes = options.decode.map(decodeWorker)
  if (prefills.length === 0 || decodes.length === 0) {
    throw new KvxError(
      'ERR_KVX_INVALID_OPTION',
      'A router needs at least one prefill worker and one decode worker.',
    )
  }
  const log = options.log ?? silentLog
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
  new Gauge({
    name: 'kvx_router_requests_live',
    help: 'Completions that a worker is working on.',
    labelNames: ['role', 'worker'],
    registers: [registry],
    collect() {
      for (const { role, url, live } of [...prefills, ...decodes]) {
        this.set({ role, worker: url }, live)
      }
    },
  })
  const app = makeApp(registry, (cause) => {
    failures.inc({ code: toKvxError(cause).code })
  })
  let turn = 0

  app.post('/v1/completions', async (c) => {
    const body = parseJsonVerbatim(await c.req.text())
    if (typeof body !== 'object' || body === null || Array.isArray(body)) {
      throw new KvxError('ERR_KVX_INVALID_ARGUMENT', 'The body must be a JSON object.')
    }
    const prefill = leastLoaded(prefills, turn)
    const decode = leastLoaded(decodes, turn)
    turn++
    const gone = clientGone(c)
    try {
      const answer = await counted(decode, pair(c, body, prefill, decode, gone))
      requests.inc({ result: 'success' })
      return answer
    } catch (cause) {
      prefill.forgetPort()
      if (gone.aborted) {
        requests.inc({ result: 'cancelled' })
        log.debug({ prefill: prefill.url, decode: decode.url }, 'request.cancelled')
        return RESPONSE_ALREADY_SENT
      }
      requests.inc({ result: 'failed' })
      if (c.env.outgoing.headersSent) {
        // The client has part of an answer: cutting the connection is the only word left.
        log.warn({ decode: decode.url, reason: String(cause) }, 'decode broke off in its answer')
        c.env.outgoing.destroy()
        return RESPONSE_ALREADY_SENT
      }
      const { status, body: failure } = cause instanceof LegFailure ? cause.http : httpError(cause)
      failures.inc({ code: failure.error.code })
      log.warn(
        { prefill: prefill.url, decode: decode.url, status, ...failure.error },
        'request.failed',
      )
      return json(c, failure, status)
    }
  })

  app.get('/v1/models', async (c) => {
    let last: unknown
    for (const { url } of decodes) {
      try {
        return json(c, await ask(`${url}/v1/models`))
      } catch (cause) {
        last = cause
      }
    }
    throw new KvxError('ERR_KVX_CONNECT_FAILED', 'No decode worker answers.', { cause: last })
  })

  app.get('/health', async (c) => {
    const workers = await Promise.all(
      [...prefills, ...decodes].map(async ({ role, url }) => {
        const healthy = await fetch(`${url}/health`, { signal: AbortSignal.timeout(2_000) }).then(
          async (response) => {
            await response.body?.cancel()
            return response.ok
          },
          () => false,
        )
        return { role, url, healthy }
      }),
    )
    const usable = (role: string) => workers.some((w) => w.role === role && w.healthy)
    const ready = usable('prefill') && usable('decode')
    return json(c, { status: ready ? 'ok' : 'unavailable', workers }, ready ? 200 : 503)
  })

  return listen(app, { host: options.host ?? '127.0.0.1', port: options.port ?? 0 })
}

function counted<T>(worker: Worker, work: Promise<T>): Promise<T> {
  worker.live++
  return work.finally(() => {
    worker.live--
  })
}

/**
 * Sends both legs at once and passes decode's answer on. Whatever fails first ends both.
 * @throws LegFailure, or what `port` throws
 */
async function pair(
  c: AppContext,
  body: object,
  prefill: PrefillWorker,
  decode: Worker,
  gone: AbortSignal,
): Promise<Response> {
  const over = new AbortController()
  const signal = AbortSignal.any([gone, over.signal])
  try {
    const text = toJson({
      ...body,
      bootstrap_host: prefill.host,
      bootstrap_port: await prefill.port(signal),
      bootstrap_room: randomRoom(),
    })
    const headers = forwarded(c)
    const prefilled = counted(
      prefill,
      openLeg('prefill', prefill.url, text, headers, signal).then(drain),
    )
    const answer = openLeg('decode', decode.url, text, headers, signal)
    // Each may fail after the other has decided the race; that failure is then nobody's news.
    prefilled.catch(() => undefined)
    answer.catch(() => undefined)
    // Decode's first byte means that the cache has arrived: prefill cannot spoil anything after it.
    await Promise.race([answer, prefilled.then(() => answer)])
    await passOn(c, await answer)
    return RESPONSE_ALREADY_SENT
  } catch (cause) {
    over.abort(cause)
    throw cause
  }
}

async function passOn(c: AppContext, answer: Answer): Promise<void> {
  const { outgoing } = c.env
  outgoing.writeHead(answer.status, { 'content-type': answer.contentType })
  let bytes = answer.first
  while (bytes !== undefined) {
    if (!outgoing.write(bytes))
      await Promise.race([once(outgoing, 'drain'), once(outgoing, 'close')])
    bytes = (await answer.rest.read()).value
  }
  outgoing.end()
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

/** 63 random bits: SGLang's rooms are signed 64-bit integers. */
function randomRoom(): bigint {
  return randomBytes(8).readBigUInt64BE() >> 1n
}
