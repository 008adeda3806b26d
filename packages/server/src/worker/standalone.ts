/** Prefill and decode in one process: what the two together must equal. */
import { generate, type LlamaModel } from '@kvx/llama'
import type { Run } from './answer.ts'
import type { Call } from './call.ts'

/** @throws KvxError at once when the request cannot be computed; while iterating, when it is aborted */
export function generateAlone(
  model: LlamaModel,
  { tokens, maxTokens, sampling, signal }: Call,
): Run {
  const generation = generate(model, {
    tokens,
    maxTokens,
    sampling,
    signal,
  })
  return {
    [Symbol.asyncIterator]: () => generation[Symbol.asyncIterator](),
    get finishReason() {
      return generation.finishReason
    },
    get evaluatedTokens() {
      return generation.evaluatedTokens
    },
    transfer: undefined,
  }
}
