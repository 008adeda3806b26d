import { throwIfAborted } from './abort.ts'
import { History } from './history.ts'
import type { LlamaModel, Slot } from './model.ts'
import type { TokenLogprobs } from './logprobs.ts'
import type { Chosen, ResolvedSampling } from './sampling.ts'

/** `stop`: the model ended its answer. `length`: `maxTokens` were generated. */
export type FinishReason = 'stop' | 'length'

/**
 * The tokens of one answer as they come, the first included; a token that ends the answer is not one of
 * them. To be iterated once. Leaving the loop early ends the computation.
 */
export interface Generation extends AsyncIterable<number> {
  /** Known once the iteration has come to its end; undefined when it was left before. */
  readonly finishReason: FinishReason | undefined
  /**
   * Generated tokens that were evaluated so far: one less than were generated, or as many when the model
   * ended by itself.
   */
  readonly evaluatedTokens: number
  /** The token with which the answer was ended, if one did. */
  readonly endToken: number | undefined
  /** Of the tokens so far; empty unless `Sampling.topLogprobs` asks for them. */
  readonly logprobs: readonly TokenLogprobs[]
}

export class Progress {
  finishReason: FinishReason | undefined
  evaluatedTokens = 0
  endToken: number | undefined
  readonly logprobs: TokenLogprobs[] = []
}

export function generation(run: (progress: Progress) => AsyncGenerator<number, void>): Generation {
  const progress = new Progress()
  const tokens = run(progress)
  return {
    get finishReason() {
      return progress.finishReason
    },
    get evaluatedTokens() {
      return progress.evaluatedTokens
    },
    get endToken() {
      return progress.endToken
    },
    logprobs: progress.logprobs,
    [Symbol.asyncIterator]: () => tokens,
  }
}

/**
 * Yields `first` and what follows it.
 *
 * @param open gives the sequence that holds exactly the prompt; asked for only when a second token is wanted
 */
export async function* answer(
  model: LlamaModel,
  progress: Progress,
  first: Chosen,
  request: {
    prompt: readonly number[]
    maxTokens: number
    sampling: ResolvedSampling
    signal: AbortSignal | undefined
  },
  open: () => Promise<Slot>,
): AsyncGenerator<number, void> {
  const { prompt, maxTokens, sampling, signal } = request
  const history = new History(prompt, maxTokens)
  let slot: Slot | undefined
  for (let { token, logprobs } = first; ;) {
    if (model.endsAnswer(token, sampling)) {
      progress.finishReason = 'stop'
      progress.endToken = token
      return
    }
    history.push(token)
    if (logprobs) progress.logprobs.push(logprobs)
    const last = history.generated === maxTokens
    // Set before the token is given out: whoever takes the last one may not come back for more.
    if (last) progress.finishReason = 'length'
    yield token
    if (last) return
    throwIfAborted(signal)
    const { sampler } = (slot ??= await open())
    const evaluated = token
    const { chosen } = await model.turns.shared(() =>
      sampler.next([evaluated], [sampling], history),
    )
    ;[{ token, logprobs }] = chosen
    progress.evaluatedTokens++
  }
}
