/** What a client wants, whichever interface it speaks. */
import type { Sampling } from '@kvx/llama'

/** Text, or token ids. */
export type Prompt = string | readonly number[]

/** Where the cache of one prompt comes from, and under which number; nothing of it for a worker that does both halves. */
export interface Bootstrap {
  readonly host: string | undefined
  readonly port: number | undefined
  readonly room: bigint | undefined
}

export interface Ask {
  /** Each is computed once, whatever `samples` is. At least one. */
  readonly prompts: readonly Prompt[]
  /** One for each prompt. */
  readonly bootstrap: readonly Bootstrap[]
  /** Answers to each prompt: the k-th draws with the seed `sampling.seed + k`. */
  readonly samples: number
  /** Undefined: the interface does not say. 0: only what comes before the answer. */
  readonly maxTokens: number | undefined
  /** `topLogprobs` also says whether log probabilities are told. */
  readonly sampling: Sampling
  /** Log probabilities of the prompts' own tokens, from this one on; undefined: none. */
  readonly scoredFrom: number | undefined
  readonly stop: readonly string[]
  readonly stream: boolean
  /** The client's own name of its request, for its answer, the log and `/abort_request`. */
  readonly rid: string | undefined
}
