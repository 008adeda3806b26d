/** What a router tells of itself and its workers, and what it passes on to all of them. */
import { buffer } from 'node:stream/consumers'
import { KvxError } from '@kvx/contract'
import type { Admission } from '../http/drain.ts'
import { httpError, plainError, Refusal } from '../http/errors.ts'
import { parseJson } from '../http/json.ts'
import { json, type App, type AppContext } from '../http/server.ts'
import { misfit } from './fit.ts'
import type { Fleet } from './fleet.ts'
import { LegFailure } from './leg.ts'
import { throughPair } from './pair.ts'
import { ask, type Worker } from './workers.ts'

/** Milliseconds in which a prompt of one token must have crossed. */
const checkMs = 20_000

export interface About {
  readonly fleet: Fleet
  readonly admission: Admission
  /** The workers' key, when they have one. */
  readonly apiKey: string | undefined
}

export function addAbout(app: App, about: About): void {
  const { fleet, apiKey } = about
  app.get('/livez', (c) => json(c, { status: 'ok' }))
  for (const path of ['/health', '/readyz']) app.get(path, (c) => health(about, c))
  app.get('/health_generate', (c) => healthGenerate(about, c))

  app.get('/v1/models', async (c) => json(c, await models(about)))
  // A name may be a path.
  app.get('/v1/models/:name{.+}', async (c) => {
    const name = c.req.param('name')
    const { data = [] } = (await models(about)) as { data?: { id?: unknown }[] }
    const card = data.find(({ id }) => id === name)
    if (card !== undefined) return json(c, card)
    const known = data.map(({ id }) => String(id)).join(', ')
    const message = `There is no model ${name.slice(0, 200)} here, but ${known}.`
    throw new Refusal(plainError(404, 'model_not_found', message))
  })
  for (const path of ['/model_info', '/get_model_info']) {
    app.get(path, async (c) => json(c, await firstAnswer(fleet.all, '/model_info', apiKey)))
  }

  for (const path of ['/server_info', '/get_server_info']) {
    app.get(path, async (c) => {
      const told = await eachAnswer(fleet.all, '/server_info', { apiKey })
      const of = (role: string) => told.filter((one) => one.role === role).map((one) => one.told)
      return json(c, { prefill: of('prefill'), decode: of('decode') })
    })
  }
  app.get('/get_load', async (c) => {
    const told = await eachAnswer(fleet.all, '/get_load', { apiKey })
    // A list: SGLang has an entry for each data-parallel rank.
    return json(
      c,
      told.flatMap(({ role, url, told: load }) =>
        [load].flat().map((entry) => ({ role, url, ...entry })),
      ),
    )
  })

  app.on(['GET', 'POST'], '/flush_cache', async (c) => {
    const told = await eachAnswer(fleet.all, '/flush_cache', { apiKey, body: '{}' })
    fleet.forgetPrefixes()
    const failed = told.some((one) => one.failed)
    return json(
      c,
      { status: failed ? 'failed' : 'ok', workers: told.map(shown) },
      failed ? 502 : 200,
    )
  })
  app.post('/abort_request', async (c) => {
    const body = await c.var.text()
    parseJson(body)
    const told = await eachAnswer(fleet.all, '/abort_request', { apiKey, body })
    const refusal = told.find((one) => one.failed)
    if (refusal !== undefined) return json(c, { workers: told.map(shown) }, 502)
    // Each request has a leg at a decode worker.
    const aborted = told
      .filter(({ role }) => role === 'decode')
      .reduce((sum, one) => sum + ((one.told as { aborted?: number }).aborted ?? 0), 0)
    return json(c, { aborted })
  })
}

async function health({ fleet, admission }: About, c: AppContext): Promise<Response> {
  const states = await Promise.all(
    fleet.all.map(async (worker) => {
      const { role, url } = worker
      return { role, url, healthy: await worker.look() }
    }),
  )
  const status = admission.draining ? 'draining' : fleet.ready ? 'ok' : 'unavailable'
  const wrong = fleet.problems().map(({ code, message }) => ({ code, message }))
  const body = { status, workers: states, ...(wrong.length > 0 && { problems: wrong }) }
  return json(c, body, status === 'ok' ? 200 : 503)
}

/** Moves the cache of a prompt of one token through every decode worker, each from a prefill worker that fits. */
async function healthGenerate({ fleet, apiKey }: About, c: AppContext): Promise<Response> {
  await fleet.known
  const pairs = fleet.decodes.map((decode, i) => {
    const fitting = fleet.prefills.filter((prefill) => misfit(prefill, decode) === undefined)
    return { decode, prefill: fitting[i % fitting.length] }
  })
  const checks = await Promise.all(
    pairs.map(async ({ prefill, decode }) => {
      const which = { prefill: prefill?.url ?? null, decode: decode.url }
      const began = performance.now()
      try {
        if (prefill === undefined) throw fleet.problems()[0] ?? nobodyFits(decode)
        let answer = Buffer.alloc(0)
        await throughPair(oneToken(apiKey), prefill, decode, async ({ body }) => {
          answer = await buffer(body)
        })
        const { kvx } = JSON.parse(answer.toString()) as { kvx?: { transfer?: object } }
        const ms = Math.round(performance.now() - began)
        return { ...which, status: 'ok', ms, transfer: kvx?.transfer ?? null }
      } catch (cause) {
        const http = cause instanceof LegFailure ? cause.http : httpError(cause)
        return { ...which, status: 'unavailable', ...http.body }
      }
    }),
  )
  const ok = checks.every(({ status }) => status === 'ok')
  return json(c, { status: ok ? 'ok' : 'unavailable', pairs: checks }, ok ? 200 : 503)
}

const nobodyFits = ({ url }: Worker) =>
  new KvxError('ERR_KVX_CONNECT_FAILED', `No prefill worker fits the decode worker at ${url}.`)

function oneToken(apiKey: string | undefined) {
  return {
    path: '/generate',
    body: new Map([
      ['input_ids', '[1]'],
      ['sampling_params', '{"max_new_tokens":1,"temperature":0,"ignore_eos":true}'],
    ]),
    headers: {
      'content-type': 'application/json',
      ...(apiKey !== undefined && { authorization: `Bearer ${apiKey}` }),
    },
    gone: AbortSignal.timeout(checkMs),
  }
}

/** What decode tells of its models, with the length that every worker can take. */
async function models({ fleet, apiKey }: About): Promise<unknown> {
  await fleet.known
  const problem = fleet.problems()[0]
  if (!fleet.fits && problem !== undefined) throw problem
  const told = await firstAnswer(fleet.decodes, '/v1/models', apiKey)
  const { data } = told as { data?: unknown }
  if (!Array.isArray(data)) return told
  const lengths = fleet.all.flatMap(({ info }) => info?.contextLength ?? [])
  const least = (model: { max_model_len?: number }) => ({
    ...model,
    max_model_len: Math.min(model.max_model_len ?? Infinity, ...lengths),
  })
  return { ...(told as object), data: lengths.length === 0 ? data : data.map(least) }
}

async function firstAnswer(
  workers: readonly Worker[],
  path: string,
  apiKey: string | undefined,
): Promise<unknown> {
  let last: unknown
  for (const { url } of workers) {
    try {
      return await ask(`${url}${path}`, { apiKey })
    } catch (cause) {
      last = cause
    }
  }
  throw new KvxError('ERR_KVX_CONNECT_FAILED', 'No worker answers.', { cause: last })
}

interface Told {
  readonly role: string
  readonly url: string
  readonly failed: boolean
  /** Its answer, or what went wrong. */
  readonly told: object
}

/** What each worker answers; one that does not answer spoils nothing. */
function eachAnswer(
  workers: readonly Worker[],
  path: string,
  options: { apiKey: string | undefined; body?: string },
): Promise<Told[]> {
  return Promise.all(
    workers.map(async ({ role, url }) => {
      try {
        return { role, url, failed: false, told: (await ask(`${url}${path}`, options)) as object }
      } catch (cause) {
        return { role, url, failed: true, told: { url, error: (cause as Error).message } }
      }
    }),
  )
}

const shown = ({ role, url, told }: Told) => ({ role, url, ...told })
