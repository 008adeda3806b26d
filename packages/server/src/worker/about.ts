/** What a worker tells of itself, under the names that clients of OpenAI, SGLang and vLLM ask for. */
import * as v from 'valibot'
import type { LlamaModel } from '@kvx/llama'
import { checkBody, refuse } from '../asks/check.ts'
import type { Admission } from '../http/drain.ts'
import { httpError, plainError, Refusal } from '../http/errors.ts'
import { parseJson } from '../http/json.ts'
import { json, type App, type AppContext } from '../http/server.ts'
import type { LiveRequests } from './live.ts'
import type { SelfCheck } from './self-check.ts'

export interface About {
  readonly model: LlamaModel
  /** Under which clients know the model. */
  readonly modelName: string
  /** Its file. */
  readonly modelPath: string
  readonly live: LiveRequests
  readonly admission: Admission
  readonly check: Pick<SelfCheck, 'run'>
  /** Empties the prefix cache. */
  flush(): void
  /** What `/server_info` tells, besides the model. */
  readonly info: object
}

export function addAbout(app: App, about: About): void {
  const { model, modelName, modelPath, live, admission, check } = about
  const card = {
    ...{ id: modelName, object: 'model', created: 0, owned_by: 'kvx' },
    max_model_len: model.contextLength,
  }
  app.get('/v1/models', (c) => json(c, { object: 'list', data: [card] }))
  // A name may be a path.
  app.get('/v1/models/:name{.+}', (c) => {
    const name = c.req.param('name')
    if (name === modelName) return json(c, card)
    const message = `There is no model ${name.slice(0, 200)} here, but ${modelName}.`
    throw new Refusal(plainError(404, 'model_not_found', message))
  })

  const ready = (c: AppContext) =>
    admission.draining ? json(c, { status: 'draining' }, 503) : json(c, { status: 'ok' })
  for (const path of ['/health', '/readyz']) app.get(path, ready)
  app.get('/livez', (c) => json(c, { status: 'ok' }))
  app.get('/health_generate', async (c) => {
    const began = performance.now()
    try {
      const transfer = await check.run()
      const ms = Math.round(performance.now() - began)
      return json(c, { status: 'ok', ms, ...(transfer && { transfer }) })
    } catch (cause) {
      // Whatever it is: this worker cannot serve.
      return json(c, { status: 'unavailable', ...httpError(cause).body }, 503)
    }
  })

  const info = {
    served_model_name: modelName,
    model_path: modelPath,
    model_id: model.id,
    ...about.info,
  }
  for (const path of ['/server_info', '/get_server_info']) app.get(path, (c) => json(c, info))
  const modelInfo = {
    ...{ model_path: modelPath, tokenizer_path: modelPath, is_generation: true },
    ...{ model_type: model.architecture, context_length: model.contextLength },
    vocab_size: model.vocabularySize,
  }
  for (const path of ['/model_info', '/get_model_info']) app.get(path, (c) => json(c, modelInfo))

  // A list: SGLang has an entry for each data-parallel rank.
  app.get('/get_load', (c) =>
    json(c, [{ dp_rank: 0, num_reqs: live.count, num_tokens: live.tokens }]),
  )
  // SGLang answers a POST, and an older one a GET.
  app.on(['GET', 'POST'], '/flush_cache', (c) => {
    about.flush()
    return c.text('Cache flushed.\n')
  })
  app.post('/abort_request', async (c) => {
    const { rid, abort_all: all } = checkBody(parseJson(await c.var.text()), abortFields)
    if (typeof rid !== 'string' && !all) throw refuse('Give the rid of a request, or abort_all')
    return json(c, { aborted: live.abort(all ? undefined : (rid ?? undefined)) })
  })
}

const abortFields = {
  rid: v.nullish(v.string('rid must be a string')),
  abort_all: v.nullish(v.boolean('abort_all must be true or false'), false),
  abort_message: v.optional(v.unknown()),
}
