import type { ResolvedSampling } from '@kvx/llama'
import type { Bootstrap } from '../asks/ask.ts'
import type { Events } from './events.ts'

/** One prompt that has passed every check that needs no other process. */
export interface Call {
  /** The prompt's token ids; at least one. */
  readonly tokens: readonly number[]
  /** Answers that are wanted; the k-th is chosen by `sampleOf(sampling, k)`. */
  readonly samples: number
  /** The most that an answer may have; at least one. */
  readonly maxTokens: number
  /** The same on both sides of a transfer. */
  readonly sampling: ResolvedSampling
  /** Log probabilities of the prompt's own tokens, from this one on; undefined: none. */
  readonly scoredFrom: number | undefined
  readonly bootstrap: Bootstrap
  /** Aborted when nobody wants the answers any more. */
  readonly signal: AbortSignal
  readonly events: Events
}

/** What a model is asked for. The first token of a prompt follows nothing, and has no log probability. */
export function scoringOf(from: number | undefined, { topLogprobs = 0 }: ResolvedSampling) {
  return from === undefined ? undefined : { from: Math.max(1, from), top: topLogprobs }
}
