/** How a worker computes: whole answers, or the first token of those that another process goes on with. */
import type { TokenLogprobs } from '@kvx/llama'
import type { Run } from '../answers/pieces.ts'
import type { Transferred } from '../answers/rendering.ts'
import type { Call } from './call.ts'

/** The answers to one prompt, one run for each sample. */
export interface Runs {
  readonly runs: readonly Run[]
  /** Known once the first token of any run has come. */
  readonly transfer: Transferred | undefined
  /** Tokens of the prompt that were not computed, as their cache was there. Known as `transfer` is. */
  readonly cachedTokens: number
  /** Of the prompt's tokens from `Call.scoredFrom` on. Undefined where another process has computed them. Known as `transfer` is. */
  readonly scores: readonly TokenLogprobs[] | undefined
}

export interface Prefilled {
  /** One for each sample. */
  readonly firstTokens: readonly number[]
  /** One for each sample, where they are wanted. */
  readonly firstLogprobs: readonly TokenLogprobs[]
  /** Of the prompt's tokens from `Call.scoredFrom` on. */
  readonly scores: readonly TokenLogprobs[]
  /** Tokens of the prompt that were not computed, as their cache was there. */
  readonly cachedTokens: number
  readonly transfer: Transferred
}

export type Compute =
  | {
      readonly kind: 'answer'
      /**
       * @param use is called when the request is accepted: only then is it time to send headers. What the runs hold is
       *   given back when it has returned.
       */
      run(call: Call, use: (runs: Runs) => Promise<void>): Promise<void>
    }
  | {
      readonly kind: 'prefill'
      /** @param opened is called when decode can be told of whatever fails from now on */
      run(call: Call, opened: () => void): Promise<Prefilled>
    }

/** Takes all tokens of all answers, and tells nobody. */
export async function exhaust({ runs }: Runs): Promise<void> {
  for (const run of runs) {
    const tokens = run[Symbol.asyncIterator]()
    while ((await tokens.next()).done !== true);
  }
}
