/** The HTTP face of a worker. */
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { toKvxError, type Log } from '@kvx/contract'
import { resolveSampling, type LlamaModel } from '@kvx/llama'
import type { Admission } from '../http/drain.ts'
import { httpError } from '../http/errors.ts'
import { parseJson } from '../http/json.ts'
import { parseCompletionRequest } from '../http/request.ts'
import { clientGone, json, makeApp, type App, type AppContext } from '../http/server.ts'
import { openEventStream } from '../http/sse.ts'
import {
  choice,
  heading,
  kvxFacts,
  pieces,
  usage,
  type Heading,
  type Run,
  type Transferred,
} from './answer.ts'
import type { Call } from './call.ts'
import type { EventLog } from './events.ts'
import type { WorkerMetrics } from './metrics.ts'

/** How a worker computes: a whole answer, or the first token of one that another process goes on with. */
export type Compute =
  | { readonly kind: 'answer'; run(call: Call): Run | Promise<Run> }
  | {
      readonly kind: 'prefill'
      run(call: Call): Promise<{ firstToken: number; transfer: Transferred }>
    }

export interface Worker {
  readonly model: LlamaModel
  readonly modelName: string
  readonly compute: Compute
  readonly events: EventLog
  readonly metrics: WorkerMetrics
  readonly log: Log
  readonly admission: Admission
  /** What `/server_info` tells, besides the model. */
  readonly info: object
}

export function completionsApp(worker: Worker): App {
  const { modelName, model, metrics, admission } = worker
  const app = makeApp(metrics.registry, (code) => {
    metrics.failed(code)
  })
  app.post('/v1/completions', (c) => admission.run(c, () => complete(worker, c)))
  app.get('/v1/models', (c) =>
    json(c, {
      object: 'list',
      data: [
        {
          id: modelName,
          object: 'model',
          created: 0,
          owned_by: 'kvx',
          max_model_len: model.contextLength,
        },
      ],
    }),
  )
  app.get('/health', (c) =>
    admission.draining ? json(c, { status: 'draining' }, 503) : json(c, { status: 'ok' }),
  )
  app.get('/server_info', (c) =>
    json(c, { served_model_name: modelName, model_id: model.id, ...worker.info }),
  )
  return app
}

async function complete(worker: Worker, c: AppContext): Promise<Response> {
  const { model, metrics, log } = worker
  const request = parseCompletionRequest(parseJson(await c.var.text()))
  const signal = clientGone(c)
  const { prompt } = request
  const tokens = typeof prompt === 'string' ? await model.tokenizePrompt(prompt, signal) : prompt
  // Who does not say how long the answer may be is not refused for it.
  const room = Math.max(1, model.contextLength - tokens.length)
  const maxTokens = request.maxTokens ?? Math.min(16, room)
  // How long the answer may be is for decode to judge, whose context it fills.
  model.checkRequest(tokens, worker.compute.kind === 'prefill' ? 1 : maxTokens)
  const sampling = resolveSampling(request.sampling, model.vocabularySize)
  const head = heading(worker.modelName)
  const events = worker.events.of(head.id, request.bootstrap.room)
  const call: Call = { request, tokens, maxTokens, sampling, signal, events }

  metrics.requestBegan()
  events('request.received', { tokens: tokens.length, stream: request.stream })
  try {
    const response = await answer(worker, c, call, head)
    metrics.requestEnded('success')
    events('request.done')
    return response
  } catch (cause) {
    if (signal.aborted) {
      metrics.requestEnded('cancelled')
      events('request.cancelled')
      return RESPONSE_ALREADY_SENT
    }
    const error = toKvxError(cause)
    // The other leg may be told before this connection closes.
    const cancelled = error.code === 'ERR_KVX_ABORTED'
    metrics.requestEnded(cancelled ? 'cancelled' : 'failed')
    const { code, phase, peer, rank, message } = error
    // Not always the client's to know.
    const reason = error.cause instanceof Error ? error.cause.message : undefined
    events(cancelled ? 'request.cancelled' : 'request.failed', { code, phase, peer, rank, reason })
    const room = request.bootstrap.room?.toString()
    log.warn({ request: head.id, room, code, reason, err: cause }, message)
    if (!c.env.outgoing.headersSent) throw error
    metrics.failed(error.code)
    return RESPONSE_ALREADY_SENT
  }
}

async function answer(
  { compute, model }: Worker,
  c: AppContext,
  call: Call,
  head: Heading,
): Promise<Response> {
  const { request, tokens, sampling } = call
  if (compute.kind === 'prefill') {
    const { firstToken, transfer } = await compute.run(call)
    const text = model.endsAnswer(firstToken, sampling)
      ? ''
      : model.detokenizer(tokens).push(firstToken)
    const first = { text, tokens: [firstToken], finishReason: 'length' } as const
    return json(c, {
      ...head,
      choices: [choice(first, request.returnTokenIds)],
      usage: usage(tokens.length, 1),
      kvx: kvxFacts(tokens.length, { evaluatedTokens: tokens.length, transfer }),
    })
  }
  // May refuse: only then is it time to send headers.
  const run = await compute.run(call)
  return request.stream
    ? answerInEvents(c, run, call, head, model)
    : answerAtOnce(c, run, call, head, model)
}

async function answerAtOnce(
  c: AppContext,
  run: Run,
  { request, tokens, sampling }: Call,
  head: Heading,
  model: LlamaModel,
): Promise<Response> {
  let text = ''
  let finishReason: 'stop' | 'length' = 'length'
  const generated: number[] = []
  for await (const piece of pieces(
    run,
    model.detokenizer(tokens),
    request.stop,
    sampling.minTokens,
  )) {
    text += piece.text
    generated.push(...piece.tokens)
    finishReason = piece.finishReason ?? finishReason
  }
  return json(c, {
    ...head,
    choices: [choice({ text, tokens: generated, finishReason }, request.returnTokenIds)],
    usage: usage(tokens.length, generated.length),
    kvx: kvxFacts(tokens.length, run),
  })
}

async function answerInEvents(
  c: AppContext,
  run: Run,
  { request, tokens, sampling, events }: Call,
  head: Heading,
  model: LlamaModel,
): Promise<Response> {
  const { stream, response } = openEventStream(c)
  let generated = 0
  try {
    for await (const piece of pieces(
      run,
      model.detokenizer(tokens),
      request.stop,
      sampling.minTokens,
    )) {
      generated += piece.tokens.length
      if (piece.tokens.length > 0) events('token', { position: generated })
      // A piece without text is news only to who asked for the ids, or when it ends the answer.
      if (piece.text === '' && !request.returnTokenIds && piece.finishReason === null) continue
      await stream.send({ ...head, choices: [choice(piece, request.returnTokenIds)] })
    }
  } catch (cause) {
    await stream.fail(httpError(cause).body)
    throw cause
  }
  if (request.includeUsage) {
    await stream.send({
      ...head,
      choices: [],
      usage: usage(tokens.length, generated),
      kvx: kvxFacts(tokens.length, run),
    })
  }
  stream.end()
  return response
}
