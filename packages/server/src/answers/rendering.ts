/** How the answers to a request are told, whichever interface asks. */
import type { Piece, Sample } from './pieces.ts'

/** What a transfer moved before the first token; a standalone worker moves nothing. */
export interface Transferred {
  readonly pages: number
  readonly bytes: number
  readonly chunks: number
  /** Milliseconds in which bytes were on their way. */
  readonly ms: number
  /** Milliseconds that the prompt waited for pages at either side, and for the model of prefill. */
  readonly queueMs: number
  readonly backend: string
  /** Decode only: tokens at the beginning of the prompt that it had already, and that did not move. */
  readonly prefixTokens?: number
}

/** What is known of one prompt when all of its answers have ended. */
export interface PromptFacts {
  readonly promptTokens: number
  /** Tokens of the prompt or its answers that this process has evaluated. */
  readonly evaluatedTokens: number
  /** Tokens of the prompt that nobody had to compute, as prefill had their cache. */
  readonly cachedTokens: number
  readonly transfer: Transferred | undefined
}

export interface Rendering {
  /** The event of a piece, which `sample` has already; undefined when there is nothing to tell. */
  event(sample: Sample, piece: Piece): object | undefined
  /** The event after the last piece of all. */
  last(samples: readonly Sample[], prompts: readonly PromptFacts[]): object | undefined
  /** All at once. */
  whole(samples: readonly Sample[], prompts: readonly PromptFacts[]): object
}

export const usage = (samples: readonly Sample[], prompts: readonly PromptFacts[]) => {
  const promptTokens = prompts.reduce((sum, prompt) => sum + prompt.promptTokens, 0)
  const completionTokens = samples.reduce((sum, { tokens }) => sum + tokens.length, 0)
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: {
      cached_tokens: prompts.reduce((sum, prompt) => sum + prompt.cachedTokens, 0),
    },
  }
}

/** What only kvx can tell: an object for one prompt, a list of them for several. */
export function kvxFacts(prompts: readonly PromptFacts[]): object {
  const facts = prompts.map(({ promptTokens, evaluatedTokens, cachedTokens, transfer }) => ({
    prompt_tokens: promptTokens,
    cached_tokens: cachedTokens,
    evaluated_tokens: evaluatedTokens,
    ...(transfer && { transfer }),
  }))
  const [only] = facts
  return facts.length === 1 && only !== undefined ? only : facts
}
