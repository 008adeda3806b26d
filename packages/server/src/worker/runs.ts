/** The answers that go on from a prompt's cache in pages, wherever it was computed. */
import { decode, sampleOf, type Generation, type LlamaModel, type TokenLogprobs } from '@kvx/llama'
import type { Run } from '../answers/pieces.ts'
import type { CacheLease } from './cache-pools.ts'
import type { Call } from './call.ts'

/** A prompt's cache, complete. */
export interface Arrived {
  /** One for each answer. */
  readonly firstTokens: readonly number[]
  /** One for each answer, where they are wanted. */
  readonly firstLogprobs: readonly TokenLogprobs[]
  readonly pages: CacheLease['pages']
}

/**
 * @param arrived who takes the first token of an answer is told of its failure
 * @param onRead is called when every answer has read the pages, or has ended without
 */
export function runsFrom(
  model: LlamaModel,
  { tokens, samples, maxTokens, sampling, signal }: Call,
  arrived: Promise<Arrived>,
  onRead: () => void,
): readonly Run[] {
  let reading = samples
  const read = () => {
    if (--reading === 0) onRead()
  }
  return Array.from({ length: samples }, (_, k): Run => {
    let generation: Generation | undefined
    async function* answer(): AsyncGenerator<number, void> {
      const onLoaded = once(read)
      try {
        const { firstTokens, firstLogprobs, pages } = await arrived
        const first = { firstToken: firstTokens[k] ?? -1, firstLogprobs: firstLogprobs[k] }
        const own = sampleOf(sampling, k)
        const request = { tokens, pages, ...first, maxTokens, sampling: own, onLoaded, signal }
        generation = decode(model, request)
        yield* generation
      } finally {
        onLoaded()
      }
    }
    return {
      [Symbol.asyncIterator]: answer,
      get finishReason() {
        return generation?.finishReason
      },
      get endToken() {
        return generation?.endToken
      },
      get evaluatedTokens() {
        return generation?.evaluatedTokens ?? 0
      },
      get logprobs() {
        return generation?.logprobs ?? []
      },
    }
  })
}

/** Does it the first time. */
export function once(what: () => void): () => void {
  let isDone = false
  return () => {
    if (!isDone) what()
    isDone = true
  }
}
