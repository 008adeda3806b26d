/** The text of one answer as it comes, cut at stop strings. */
import {
  StopMatcher,
  type FinishReason,
  type StreamingDetokenizer,
  type TokenLogprobs,
} from '@kvx/llama'

/** The tokens of one answer as they come; the rest is known once they have come, or were left early. */
export interface Run extends AsyncIterable<number> {
  readonly finishReason: FinishReason | undefined
  /** The token with which the answer was ended, if one did. */
  readonly endToken: number | undefined
  /** Generated tokens that this process has evaluated. */
  readonly evaluatedTokens: number
  /** Of the tokens so far, where they are wanted. */
  readonly logprobs: readonly TokenLogprobs[]
}

/** Why an answer has ended; `matched` is the stop string or the token that ended it. */
export type Finish =
  | { readonly reason: 'stop'; readonly matched: string | number | undefined }
  | { readonly reason: 'length' }

export interface Piece {
  readonly text: string
  readonly tokens: readonly number[]
  /** One for each token, or none. */
  readonly logprobs: readonly TokenLogprobs[]
  /** On the last piece only. */
  readonly finish: Finish | undefined
}

/**
 * Cuts the text at stop strings; leaves the run when one was found, which ends its computation.
 *
 * @param minTokens no stop string begins in the text of so many tokens
 */
export async function* pieces(
  run: Run,
  detokenizer: StreamingDetokenizer,
  stop: readonly string[],
  minTokens: number,
): AsyncGenerator<Piece, void> {
  const matcher = new StopMatcher(stop)
  const stopped = () => ({ reason: 'stop', matched: matcher.found }) as const
  let generated = 0
  for await (const token of run) {
    const complete = detokenizer.push(token)
    const text = ++generated <= minTokens ? complete : matcher.push(complete)
    const piece = { text, tokens: [token], logprobs: run.logprobs.slice(generated - 1, generated) }
    if (matcher.stopped) {
      yield { ...piece, finish: stopped() }
      return
    }
    yield { ...piece, finish: undefined }
  }
  const rest = matcher.push(detokenizer.flush()) + matcher.flush()
  const ended: Finish =
    run.finishReason === 'stop' ? { reason: 'stop', matched: run.endToken } : { reason: 'length' }
  yield { text: rest, tokens: [], logprobs: [], finish: matcher.stopped ? stopped() : ended }
}

/** One answer as far as it has come. */
export class Sample {
  /** Counts all answers of a request: those to one prompt follow one another. */
  readonly index: number
  readonly prompt: readonly number[]
  readonly tokens: number[] = []
  /** One for each token, or none. */
  readonly logprobs: TokenLogprobs[] = []
  /** Of the tokens of the prompt, from the first that is scored on; where they are wanted and this process has computed them. */
  scores: readonly TokenLogprobs[] | undefined
  /** Tokens of the prompt that nobody had to compute. */
  cachedTokens = 0
  text = ''
  finish: Finish | undefined

  constructor(index: number, prompt: readonly number[]) {
    this.index = index
    this.prompt = prompt
  }

  add({ text, tokens, logprobs, finish }: Piece): void {
    this.text += text
    this.tokens.push(...tokens)
    this.logprobs.push(...logprobs)
    this.finish = finish
  }
}
