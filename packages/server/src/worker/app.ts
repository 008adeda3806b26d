/** The HTTP face of a worker: which interfaces it speaks, and what it tells of itself. */
import { generateRendering } from '../answers/generate.ts'
import { chatRendering, completionRendering, heading } from '../answers/openai.ts'
import { parseChat } from '../asks/chat.ts'
import { parseCompletion } from '../asks/completions.ts'
import { parseGenerate } from '../asks/generate.ts'
import { json, makeApp, type App, type AppContext } from '../http/server.ts'
import { serve, type Asked, type Worker } from './serve.ts'

export function workerApp(worker: Worker): App {
  const { modelName, model, metrics, admission } = worker
  const app = makeApp(metrics.registry, (code) => {
    metrics.failed(code)
  })
  const asking = (path: string, read: (body: unknown) => Asked) =>
    app.post(path, (c) => admission.run(c, () => serve(worker, c, read)))

  asking('/v1/completions', (body) => {
    const ask = parseCompletion(body)
    const head = heading('cmpl', modelName)
    return { ask, id: head.id, rendering: completionRendering(ask, head) }
  })
  asking('/v1/chat/completions', (body) => {
    const ask = parseChat(body, (messages, options) => model.chatTemplate.render(messages, options))
    const head = heading('chatcmpl', modelName)
    return { ask, id: head.id, rendering: chatRendering(ask, head) }
  })
  asking('/generate', (body) => {
    const ask = parseGenerate(body)
    const { id } = heading('gen', modelName)
    return { ask, id, rendering: generateRendering(ask, id) }
  })

  const card = {
    ...{ id: modelName, object: 'model', created: 0, owned_by: 'kvx' },
    max_model_len: model.contextLength,
  }
  app.get('/v1/models', (c) => json(c, { object: 'list', data: [card] }))
  const well = (c: AppContext) =>
    admission.draining ? json(c, { status: 'draining' }, 503) : json(c, { status: 'ok' })
  app.get('/health', well)
  app.get('/server_info', (c) =>
    json(c, { served_model_name: modelName, model_id: model.id, ...worker.info }),
  )
  return app
}
