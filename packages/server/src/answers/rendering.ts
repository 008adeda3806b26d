/** How the answers to a request are told, whichever interface asks. */
import type { Piece, Sample } from './pieces.ts'

/** What a transfer moved before the first token; a standalone worker moves nothing. */
export interface Transferred {
  readonly pages: number
  readonly bytes: number
  readonly chunks: number
  /** From the first write to the last acknowledgement. */
  readonly ms: number
  readonly backend: string
}

/** What is known of one prompt when all of its answers have ended. */
export interface PromptFacts {
  readonly promptTokens: number
  /** Tokens of the prompt or its answers that this process has evaluated. */
  readonly evaluatedTokens: number
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
  }
}

/** What only kvx can tell: an object for one prompt, a list of them for several. */
export function kvxFacts(prompts: readonly PromptFacts[]): object {
  const facts = prompts.map(({ promptTokens, evaluatedTokens, transfer }) => ({
    prompt_tokens: promptTokens,
    evaluated_tokens: evaluatedTokens,
    ...(transfer && { transfer }),
  }))
  const [only] = facts
  return facts.length === 1 && only !== undefined ? only : facts
}
