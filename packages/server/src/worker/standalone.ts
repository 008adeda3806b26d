/** Prefill and decode in one process: what the two together must equal. */
import { generate, sampleOf, type LlamaModel } from '@kvx/llama'
import { scoringOf, type Call } from './call.ts'
import type { Runs } from './compute.ts'

/** @throws KvxError at once when the request cannot be computed; while iterating, when it is aborted */
export function generateAlone(
  model: LlamaModel,
  { tokens, samples, maxTokens, sampling, scoredFrom, signal }: Call,
): Runs {
  let scores: Runs['scores'] = []
  const scoring = scoringOf(scoredFrom, sampling)
  const runs = Array.from({ length: samples }, (_, k) =>
    generate(model, {
      ...{ tokens, maxTokens, sampling: sampleOf(sampling, k), scoring, signal },
      onScores: (told) => {
        scores = told
      },
    }),
  )
  return {
    ...{ runs, transfer: undefined, cachedTokens: 0 },
    get scores() {
      return scores
    },
  }
}
