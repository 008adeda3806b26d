import { evaluatePrompt, release } from './evaluate.ts'
import { answer, generation, type Generation } from './generation.ts'
import type { LlamaModel } from './model.ts'
import { resolveSampling, type Sampling } from './sampling.ts'

export interface GenerateRequest {
  readonly tokens: readonly number[]
  readonly maxTokens: number
  readonly sampling?: Sampling | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * Prefill and decode in this process, without pages. Gives the same tokens as `prefill` and `decode` in
 * two processes.
 *
 * @throws KvxError at once: `ERR_KVX_INVALID_ARGUMENT`; while iterating: `ERR_KVX_ABORTED`, `ERR_KVX_CLOSED`
 */
export function generate(model: LlamaModel, request: GenerateRequest): Generation {
  const { tokens, maxTokens, signal } = request
  model.checkRequest(tokens, maxTokens)
  const sampling = resolveSampling(request.sampling, model.vocabularySize)
  return generation(async function* (progress) {
    const slot = await model.slots.acquire(signal)
    try {
      const prompt = {
        tokens,
        chunkTokens: model.chunkTokens,
        samplings: [sampling],
        signal,
      } as const
      const [first] = await evaluatePrompt(model, slot, prompt)
      const rest = { prompt: tokens, maxTokens, sampling, signal }
      yield* answer(model, progress, first, rest, () => Promise.resolve(slot))
    } finally {
      await release(model, slot)
    }
  })
}
