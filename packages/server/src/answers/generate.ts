/** Answers as SGLang's `/generate` tells them: what has come so far, in every event. */
import type { GenerateAsk } from '../asks/generate.ts'
import { generateLogprobs, textOf, tripleOf, type BytesOf } from './logprobs.ts'
import { kvxFacts, type Rendering } from './rendering.ts'
import type { Finish, Sample } from './pieces.ts'

export function generateRendering(
  ask: GenerateAsk,
  id: string,
  bytesOf: BytesOf,
  now: () => number = () => performance.now(),
): Rendering {
  const began = now()
  const { scoredFrom } = ask
  const isScored = ask.sampling.topLogprobs !== undefined
  const hasTop = (ask.sampling.topLogprobs ?? 0) > 0
  const textIf = (token: number) => (ask.textInLogprobs ? textOf(bytesOf, token) : null)

  /** As the lists of both legs are told, one behind the other: decode has nothing to tell of the prompt. */
  function logprobsOf(sample: Sample) {
    const output = generateLogprobs(sample, textIf)
    const from = scoredFrom ?? sample.prompt.length
    const scored = { tokens: sample.prompt.slice(Math.max(1, from)), logprobs: sample.scores ?? [] }
    const input = generateLogprobs(scored, textIf)
    // The first token of all follows nothing.
    const first = sample.prompt[0] ?? -1
    const begins = from === 0 && sample.scores !== undefined
    return {
      input_token_logprobs: [...(begins ? [tripleOf(null, first, textIf)] : []), ...input.chosen],
      output_token_logprobs: output.chosen,
      ...(hasTop && {
        input_top_logprobs: [...(begins ? [null] : []), ...input.top],
        output_top_logprobs: output.top,
      }),
    }
  }
  const told = (sample: Sample) => {
    const { index, text, tokens, finish, prompt, cachedTokens } = sample
    return {
      text,
      output_ids: tokens,
      meta_info: {
        id: ask.isBatch ? `${id}-${String(index)}` : id,
        finish_reason: finish === undefined ? null : finishReason(finish, tokens.length),
        prompt_tokens: prompt.length,
        completion_tokens: tokens.length,
        cached_tokens: cachedTokens,
        ...(isScored && logprobsOf(sample)),
        ...(finish !== undefined && { e2e_latency: (now() - began) / 1000 }),
      },
    }
  }
  return {
    event: (sample) => ({ ...told(sample), ...(ask.isBatch && { index: sample.index }) }),
    last: () => undefined,
    whole(samples, prompts) {
      const answers = samples.map((sample) => {
        const facts = prompts[Math.floor(sample.index / ask.samples)]
        const answer = told(sample)
        return facts === undefined ? answer : { ...answer, kvx: kvxFacts([facts]) }
      })
      const [only] = answers
      return ask.isBatch || only === undefined ? answers : only
    },
  }
}

function finishReason(finish: Finish, length: number): object {
  if (finish.reason === 'length') return { type: 'length', length }
  return { type: 'stop', ...(finish.matched !== undefined && { matched: finish.matched }) }
}
