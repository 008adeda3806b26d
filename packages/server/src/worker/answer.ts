/** An answer in OpenAI's shape, from the tokens of whatever computes it. */
import { randomBytes } from 'node:crypto'
import { StopMatcher, type FinishReason, type StreamingDetokenizer } from '@kvx/llama'

/** The tokens of one answer as they come; the rest is known once they have come, or were left early. */
export interface Run extends AsyncIterable<number> {
  readonly finishReason: FinishReason | undefined
  /** Generated tokens that this process has evaluated. */
  readonly evaluatedTokens: number
  /** What moved before the first token; a standalone worker moves nothing. */
  readonly transfer: Transferred | undefined
}

export interface Transferred {
  readonly pages: number
  readonly bytes: number
  readonly chunks: number
  /** From the first write to the last acknowledgement. */
  readonly ms: number
  readonly backend: string
}

export interface Piece {
  readonly text: string
  readonly tokens: readonly number[]
  /** On the last piece only. */
  readonly finishReason: FinishReason | null
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
  let generated = 0
  for await (const token of run) {
    const complete = detokenizer.push(token)
    const text = ++generated <= minTokens ? complete : matcher.push(complete)
    if (matcher.stopped) {
      yield { text, tokens: [token], finishReason: 'stop' }
      return
    }
    yield { text, tokens: [token], finishReason: null }
  }
  const rest = matcher.push(detokenizer.flush()) + matcher.flush()
  yield {
    text: rest,
    tokens: [],
    finishReason: matcher.stopped ? 'stop' : (run.finishReason ?? 'length'),
  }
}

export interface Heading {
  readonly id: string
  readonly object: 'text_completion'
  /** Seconds since 1970. */
  readonly created: number
  readonly model: string
}

export function heading(model: string): Heading {
  return {
    id: `cmpl-${randomBytes(12).toString('hex')}`,
    object: 'text_completion',
    created: Math.floor(Date.now() / 1000),
    model,
  }
}

export function choice(piece: Piece, returnTokenIds: boolean): object {
  return {
    index: 0,
    text: piece.text,
    ...(returnTokenIds && { token_ids: piece.tokens }),
    logprobs: null,
    finish_reason: piece.finishReason,
  }
}

export function usage(promptTokens: number, completionTokens: number): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  }
}

/** What only kvx can tell about an answer. */
export function kvxFacts(
  promptTokens: number,
  run: Pick<Run, 'evaluatedTokens' | 'transfer'>,
): object {
  return {
    prompt_tokens: promptTokens,
    evaluated_tokens: run.evaluatedTokens,
    ...(run.transfer && { transfer: run.transfer }),
  }
}
