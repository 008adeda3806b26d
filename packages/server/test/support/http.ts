/** HTTP servers of a worker and a router without a model, and a client that sends whatever it is told to. */
import { request, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http'
import { text as textOf } from 'node:stream/consumers'
import { silentLog } from '@kvx/contract'
import { LlamaModel } from '@kvx/llama'
import { Admission } from '../../src/http/drain.ts'
import { listen, type HttpOptions, type ListenOptions } from '../../src/http/server.ts'
import { startRouter } from '../../src/index.ts'
import type { Runs } from '../../src/worker/compute.ts'
import type { Call } from '../../src/worker/call.ts'
import { workerApp } from '../../src/worker/app.ts'
import { EventLog } from '../../src/worker/events.ts'
import type { SelfCheck } from '../../src/worker/self-check.ts'
import { LiveRequests } from '../../src/worker/live.ts'
import { workerMetrics } from '../../src/worker/metrics.ts'

const closers: (() => Promise<void>)[] = []
export async function closeAll(): Promise<void> {
  for (const close of closers.splice(0).reverse()) await close()
}

/** Judges requests as a model does; every text has two tokens. */
const model = Object.assign(Object.create(LlamaModel.prototype) as object, {
  id: 'none',
  contextLength: 2 ** 20,
  architecture: 'none',
  vocabulary: { size: 2 ** 31 },
  tokenizePrompt: () => Promise.resolve([1, 2]),
  detokenizer: () => ({ push: (token: number) => `<${String(token)}>`, flush: () => '' }),
}) as unknown as LlamaModel

/** What answers instead of a model: by default two tokens. */
export type Answering = (call: Call) => AsyncGenerator<number, void>

async function* twoTokens(): AsyncGenerator<number, void> {
  yield* await Promise.resolve([7, 8])
}

export interface WorkerOptions {
  readonly answering?: Answering
  readonly http?: HttpOptions
  readonly limits?: ListenOptions['limits']
  /** What `/health_generate` runs. */
  readonly check?: SelfCheck['run']
}

/** The HTTP side of a worker. */
export async function startWorkerApp(options: WorkerOptions = {}) {
  const { answering = twoTokens, http, limits, check = () => Promise.resolve(undefined) } = options
  const runsOf = (call: Call): Runs => ({
    runs: Array.from({ length: call.samples }, () => {
      const tokens = answering(call)
      return {
        [Symbol.asyncIterator]: () => tokens,
        ...{ finishReason: 'length', endToken: undefined, evaluatedTokens: 0, logprobs: [] },
      }
    }),
    transfer: undefined,
    cachedTokens: 0,
    scores: undefined,
  })
  const metrics = workerMetrics()
  const admission = new Admission('worker')
  const app = workerApp({
    ...{ model, modelName: 'none', metrics, log: silentLog, info: { bootstrap_port: 1 } },
    compute: { kind: 'answer', run: (call, use) => use(runsOf(call)) },
    events: new EventLog(silentLog),
    live: new LiveRequests(),
    check: { run: check },
    flush: () => undefined,
    modelPath: 'none.gguf',
    admission,
  })
  const listening = await listen(app, {
    ...{ host: '127.0.0.1', port: 0, http },
    ...(limits && { limits }),
  })
  closers.push(() => listening.close())
  return { ...listening, metrics, admission }
}

/** A router before such workers. */
export async function startRouterApp(http: HttpOptions = {}, workers: WorkerOptions = {}) {
  const [prefill, decode] = await Promise.all([startWorkerApp(workers), startWorkerApp(workers)])
  const router = await startRouter({ prefill: [{ url: prefill.url }], decode: [decode.url], http })
  closers.push(() => router.close())
  return router
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

export interface Sent {
  readonly method?: string
  readonly headers?: OutgoingHttpHeaders
  readonly body?: string | Buffer
  readonly framing?: 'length' | 'chunked'
}

/** Sends exactly this over a connection of its own. */
export function send(url: string, { method = 'GET', headers, body, framing }: Sent = {}) {
  return new Promise<Answer>((resolve, reject) => {
    const framed =
      body === undefined
        ? {}
        : framing === 'chunked'
          ? { 'transfer-encoding': 'chunked' }
          : { 'content-length': Buffer.byteLength(body) }
    const call = request(url, { method, agent: false, headers: { ...headers, ...framed } })
    call.on('error', reject)
    call.on('response', (response) => {
      textOf(response).then((text) => {
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text })
      }, reject)
    })
    call.end(body)
  })
}

export const asJson = { 'content-type': 'application/json' }

/** A completion with this body. */
export const complete = (url: string, body: string | Buffer, headers: OutgoingHttpHeaders = {}) =>
  send(`${url}/v1/completions`, { method: 'POST', body, headers: { ...asJson, ...headers } })

/** The sentence and the code of an error. */
export function errorIn({ body }: Answer): { code: string; message: string } {
  return (JSON.parse(body) as { error: { code: string; message: string } }).error
}
