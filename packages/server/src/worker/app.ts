/** The HTTP face of a worker: which interfaces it speaks, and what it tells of itself. */
import { generateRendering } from '../answers/generate.ts'
import { chatRendering, completionRendering, heading } from '../answers/openai.ts'
import { parseChat } from '../asks/chat.ts'
import { parseCompletion } from '../asks/completions.ts'
import { parseGenerate } from '../asks/generate.ts'
import { makeApp, type App } from '../http/server.ts'
import { addAbout } from './about.ts'
import { serve, type Asked, type Worker } from './serve.ts'

export function workerApp(worker: Worker): App {
  const { modelName, model, metrics, admission } = worker
  const app = makeApp(metrics.registry, (code) => {
    metrics.failed(code)
  })
  const bytesOf = (token: number) => model.vocabulary.bytes(token)
  const asking = (path: string, read: (body: unknown) => Asked) =>
    app.post(path, (c) => admission.run(c, () => serve(worker, c, read)))

  asking('/v1/completions', (body) => {
    const ask = parseCompletion(body)
    const head = heading('cmpl', modelName, ask.rid)
    return { ask, id: head.id, rendering: completionRendering(ask, head, bytesOf) }
  })
  asking('/v1/chat/completions', (body) => {
    const ask = parseChat(body, (messages, options) => model.chatTemplate.render(messages, options))
    const head = heading('chatcmpl', modelName, ask.rid)
    return { ask, id: head.id, rendering: chatRendering(ask, head, bytesOf) }
  })
  asking('/generate', (body) => {
    const ask = parseGenerate(body)
    const { id } = heading('gen', modelName, ask.rid)
    return { ask, id, rendering: generateRendering(ask, id, bytesOf) }
  })

  addAbout(app, worker)
  return app
}
