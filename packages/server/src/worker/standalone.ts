/** Prefill and decode in one process: what the two together must equal. */
import { generate, sampleOf, type LlamaModel } from '@kvx/llama'
import type { Call } from './call.ts'
import type { Runs } from './compute.ts'

/** @throws KvxError at once when the request cannot be computed; while iterating, when it is aborted */
export function generateAlone(
  model: LlamaModel,
  { tokens, samples, maxTokens, sampling, signal }: Call,
): Runs {
  const runs = Array.from({ length: samples }, (_, k) =>
    generate(model, { tokens, maxTokens, sampling: sampleOf(sampling, k), signal }),
  )
  return { runs, transfer: undefined }
}
