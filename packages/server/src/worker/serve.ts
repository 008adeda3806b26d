/** One request from its body to its last byte: every prompt computed once, every answer told as it comes. */
import { setImmediate } from 'node:timers/promises'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import { toKvxError, type Log } from '@kvx/contract'
import { resolveSampling, type LlamaModel } from '@kvx/llama'
import { pieces, Sample, type Piece, type Run } from '../answers/pieces.ts'
import type { PromptFacts, Rendering } from '../answers/rendering.ts'
import type { Ask } from '../asks/ask.ts'
import type { Admission } from '../http/drain.ts'
import { httpError } from '../http/errors.ts'
import { parseJson } from '../http/json.ts'
import { answerLater } from '../http/later.ts'
import { clientGone, json, type AppContext } from '../http/server.ts'
import { openEventStream } from '../http/sse.ts'
import type { Call } from './call.ts'
import type { Compute, Runs } from './compute.ts'
import type { EventLog } from './events.ts'
import type { LiveRequests } from './live.ts'
import type { WorkerMetrics } from './metrics.ts'
import type { SelfCheck } from './self-check.ts'
import { Meeting, together } from './together.ts'

export interface Worker {
  readonly model: LlamaModel
  readonly modelName: string
  /** Its file. */
  readonly modelPath: string
  readonly compute: Compute
  readonly events: EventLog
  readonly metrics: WorkerMetrics
  readonly log: Log
  readonly admission: Admission
  readonly live: LiveRequests
  readonly check: Pick<SelfCheck, 'run'>
  /** Empties the prefix cache. */
  flush(): void
  /** What `/server_info` tells, besides the model. */
  readonly info: object
}

/** What a body asks for, and how its interface tells the answer. */
export interface Asked {
  readonly ask: Ask
  /** As the answer tells it. */
  readonly id: string
  readonly rendering: Rendering
}

/**
 * @param read throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 * @throws KvxError with the first cause, unless the answer has begun to leave
 */
export async function serve(
  worker: Worker,
  c: AppContext,
  read: (body: unknown) => Asked,
): Promise<Response> {
  const { metrics, log, live } = worker
  const asked = read(parseJson(await c.var.text()))
  const { ask, id } = asked
  const gone = clientGone(c)
  const calls = await callsOf(worker, asked, gone)
  const rooms = ask.bootstrap.map(({ room }) => room?.toString())
  const events = worker.events.of(id, ask.bootstrap[0]?.room)
  metrics.requestBegan()
  const tokens = calls.reduce((sum, call) => sum + call.tokens.length, 0)
  for (const call of calls) {
    call.events('request.received', {
      ...{ tokens: call.tokens.length, stream: ask.stream },
      clientId: c.req.header('x-request-id'),
      traceparent: c.req.header('traceparent'),
    })
  }
  try {
    const response = await live.during(id, tokens, (aborted) =>
      answer(worker, c, asked, calls, AbortSignal.any([gone, aborted])),
    )
    metrics.requestEnded('success')
    events('request.done')
    return response
  } catch (cause) {
    if (gone.aborted) {
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
    log.warn({ request: id, room: rooms.join(','), code, reason, err: cause }, message)
    if (!c.env.outgoing.headersSent) throw error
    metrics.failed(error.code)
    return RESPONSE_ALREADY_SENT
  }
}

/** One for each prompt. @throws KvxError as `LlamaModel.tokenizePrompt` and `checkRequest` */
async function callsOf(
  { model, compute, events }: Worker,
  { ask, id }: Asked,
  signal: AbortSignal,
): Promise<readonly Call[]> {
  const sampling = resolveSampling(ask.sampling, model.vocabularySize)
  const calls: Call[] = []
  for (const [index, prompt] of ask.prompts.entries()) {
    // Each costs a few milliseconds: what else there is to do comes between.
    if (index > 0) await setImmediate()
    const tokens = typeof prompt === 'string' ? await model.tokenizePrompt(prompt, signal) : prompt
    // Who does not say how long the answer may be is not refused for it.
    const room = Math.max(1, model.contextLength - tokens.length)
    // Also where no answer is wanted, one token is sampled: the cache moves all the same.
    const maxTokens = Math.max(1, ask.maxTokens ?? Math.min(16, room))
    // How long the answer may be is for decode to judge, whose context it fills.
    model.checkRequest(tokens, compute.kind === 'prefill' ? 1 : maxTokens)
    const bootstrap = ask.bootstrap[index] ?? { host: undefined, port: undefined, room: undefined }
    calls.push({
      ...{ tokens, samples: ask.samples, maxTokens, sampling, bootstrap, signal },
      scoredFrom: ask.scoredFrom,
      events: events.of(id, bootstrap.room),
    })
  }
  return calls
}

async function answer(
  worker: Worker,
  c: AppContext,
  { ask, rendering }: Asked,
  calls: readonly Call[],
  signal: AbortSignal,
): Promise<Response> {
  const answers = calls.map(({ tokens }, prompt) =>
    Array.from({ length: ask.samples }, (_, k) => new Sample(prompt * ask.samples + k, tokens)),
  )
  const { compute } = worker
  const telling = tellingOf(worker, c, ask, rendering)
  try {
    const facts =
      compute.kind === 'prefill'
        ? await prefillAll(worker.model, compute, calls, answers, signal, telling)
        : await answerAll(worker.model, compute, ask, calls, answers, signal, telling)
    return await telling.end(answers.flat(), facts)
  } catch (cause) {
    await telling.fail(cause)
    throw cause
  }
}

function prefillAll(
  model: LlamaModel,
  compute: Compute & { kind: 'prefill' },
  calls: readonly Call[],
  answers: readonly (readonly Sample[])[],
  signal: AbortSignal,
  telling: Telling,
): Promise<PromptFacts[]> {
  let missing = calls.length
  const opened = () => {
    if (--missing === 0) telling.accepted()
  }
  return together(calls, signal, async (call, prompt, either) => {
    const { tokens, sampling } = call
    const prefilled = await compute.run({ ...call, signal: either }, opened)
    const { firstTokens, firstLogprobs, scores, cachedTokens, transfer } = prefilled
    answers[prompt]?.forEach((sample, k) => {
      const token = firstTokens[k] ?? -1
      const text = model.endsAnswer(token, sampling) ? '' : model.detokenizer(tokens).push(token)
      sample.cachedTokens = cachedTokens
      sample.scores = scores
      const logprobs = firstLogprobs.slice(k, k + 1)
      sample.add({ text, tokens: [token], logprobs, finish: { reason: 'length' } })
    })
    const evaluatedTokens = tokens.length - cachedTokens
    return { promptTokens: tokens.length, evaluatedTokens, cachedTokens, transfer }
  })
}

function answerAll(
  model: LlamaModel,
  compute: Compute & { kind: 'answer' },
  ask: Ask,
  calls: readonly Call[],
  answers: readonly (readonly Sample[])[],
  signal: AbortSignal,
  telling: Telling,
): Promise<PromptFacts[]> {
  const accepted = new Meeting(calls.length, () => {
    telling.accepted()
  })
  return together(calls, signal, async (call, prompt, either) => {
    const { tokens, sampling, events } = call
    let evaluatedTokens = 0
    let known: Pick<PromptFacts, 'transfer' | 'cachedTokens'> = {
      transfer: undefined,
      cachedTokens: 0,
    }
    const follow = async (run: Run, sample: Sample, given: Runs) => {
      const { minTokens } = sampling
      for await (const piece of pieces(run, model.detokenizer(tokens), ask.stop, minTokens)) {
        const told = ask.maxTokens === 0 ? { ...piece, text: '', tokens: [], logprobs: [] } : piece
        sample.cachedTokens = given.cachedTokens
        sample.scores = given.scores
        sample.add(told)
        if (told.tokens.length > 0)
          events('token', { position: sample.tokens.length, sample: sample.index })
        await telling.piece(sample, told)
      }
      evaluatedTokens += run.evaluatedTokens
    }
    await compute.run({ ...call, signal: either }, async (given) => {
      await accepted.arrive(either)
      await together(given.runs, either, async (run, k) => {
        const sample = answers[prompt]?.[k]
        if (sample !== undefined) await follow(run, sample, given)
      })
      known = { transfer: given.transfer, cachedTokens: given.cachedTokens }
    })
    return { promptTokens: tokens.length, evaluatedTokens, ...known }
  })
}

/** How an answer leaves. */
interface Telling {
  /** No prompt can be refused any more. */
  accepted(): void
  piece(sample: Sample, piece: Piece): Promise<void>
  end(samples: readonly Sample[], prompts: readonly PromptFacts[]): Promise<Response>
  fail(cause: unknown): Promise<void>
}

function tellingOf({ compute }: Worker, c: AppContext, ask: Ask, rendering: Rendering): Telling {
  // Prefill has one token to tell: a stream of it would be of no use to anybody.
  if (compute.kind === 'prefill') return withHeadersFirst(c, rendering)
  return ask.stream ? inEvents(c, rendering) : atOnce(c, rendering)
}

/**
 * Routers look at neither leg before both have sent their headers. Those of prefill do not wait for decode, which may
 * be dead and never come; and what fails from then on is decode's to tell, who hears it from prefill.
 */
function withHeadersFirst(c: AppContext, rendering: Rendering): Telling {
  let begun: ReturnType<typeof answerLater> | undefined
  const answer = () => (begun ??= answerLater(c))
  return {
    accepted: () => void answer(),
    piece: () => Promise.resolve(),
    end: (samples, prompts) => Promise.resolve(answer().end(rendering.whole(samples, prompts))),
    fail: (cause) => Promise.resolve(void begun?.end(httpError(cause).body)),
  }
}

const atOnce = (c: AppContext, rendering: Rendering): Telling => ({
  accepted: () => undefined,
  piece: () => Promise.resolve(),
  end: (samples, prompts) => Promise.resolve(json(c, rendering.whole(samples, prompts))),
  fail: () => Promise.resolve(),
})

function inEvents(c: AppContext, rendering: Rendering): Telling {
  let open: ReturnType<typeof openEventStream> | undefined
  const opened = () => (open ??= openEventStream(c))
  return {
    accepted: () => {
      opened()
    },
    async piece(sample, piece) {
      const event = rendering.event(sample, piece)
      if (event !== undefined) await opened().stream.send(event)
    },
    async end(samples, prompts) {
      const { stream, response } = opened()
      const last = rendering.last(samples, prompts)
      if (last !== undefined) await stream.send(last)
      stream.end()
      return response
    },
    async fail(cause) {
      await open?.stream.fail(httpError(cause).body)
    },
  }
}
