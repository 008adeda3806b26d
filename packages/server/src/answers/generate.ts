/** Answers as SGLang's `/generate` tells them: what has come so far, in every event. */
import type { GenerateAsk } from '../asks/generate.ts'
import { kvxFacts, type Rendering } from './rendering.ts'
import type { Finish, Sample } from './pieces.ts'

export function generateRendering(
  ask: GenerateAsk,
  id: string,
  now: () => number = () => performance.now(),
): Rendering {
  const began = now()
  const told = ({ index, text, tokens, finish, promptTokens }: Sample) => ({
    text,
    output_ids: tokens,
    meta_info: {
      id: ask.isBatch ? `${id}-${String(index)}` : id,
      finish_reason: finish === undefined ? null : finishReason(finish, tokens.length),
      prompt_tokens: promptTokens,
      completion_tokens: tokens.length,
      cached_tokens: 0,
      ...(finish !== undefined && { e2e_latency: (now() - began) / 1000 }),
    },
  })
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
