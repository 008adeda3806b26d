import { evaluatePrompt, release } from './evaluate.ts'
import { answer, generation, type Generation } from './generation.ts'
import type { PromptScoring, TokenLogprobs } from './logprobs.ts'
import type { LlamaModel } from './model.ts'
import { resolveSampling, type Sampling } from './sampling.ts'

export interface GenerateRequest {
  readonly tokens: readonly number[]
  readonly maxTokens: number
  readonly sampling?: Sampling | undefined
  /** Also the log probabilities of tokens of the prompt. */
  readonly scoring?: PromptScoring | undefined
  /** Called with them, of the tokens from `scoring.from` on, before the first token comes. */
  readonly onScores?: ((scores: readonly TokenLogprobs[]) => void) | undefined
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
        scoring: request.scoring,
        signal,
      } as const
      const { first, scores } = await evaluatePrompt(model, slot, prompt)
      request.onScores?.(scores)
      const rest = { prompt: tokens, maxTokens, sampling, signal }
      yield* answer(model, progress, first[0], rest, () => Promise.resolve(slot))
    } finally {
      await release(model, slot)
    }
  })
}
