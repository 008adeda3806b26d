/** Log probabilities of tokens, as the model gives them: before penalties, biases and temperature. */

export interface TokenLogprobs {
  /** Of the token itself; natural logarithm. */
  readonly logprob: number
  /** The most probable tokens at its place, the first one first. */
  readonly top: readonly (readonly [token: number, logprob: number])[]
}

/** What is wanted of the tokens of a prompt. */
export interface PromptScoring {
  /** The first token that is scored. The first token of a prompt follows nothing, and has no log probability. */
  readonly from: number
  /** So many of the most probable tokens at each place. */
  readonly top: number
}

/** Tokens of which logits are kept at the same time, when a prompt is scored: each takes 4 bytes for every token of the vocabulary. */
export const scoredAtOnce = 64

/**
 * @param logits pairs of token and logit: the `top` most probable ones first, at least one, then the wanted ones in any order
 * @param weight sum of the exponentials of all logits less the greatest one
 * @returns for each wanted token; undefined for one that is not among the logits
 */
export function logprobsOf(
  logits: readonly number[],
  weight: number,
  tokens: readonly number[],
  top: number,
): (TokenLogprobs | undefined)[] {
  const [, greatest = 0] = logits
  const log = (logit: number) => logit - greatest - Math.log(weight)
  const found = new Map<number, number>()
  for (let i = 0; i + 1 < logits.length; i += 2) found.set(logits[i] ?? -1, log(logits[i + 1] ?? 0))
  const best = Array.from({ length: Math.min(top, logits.length / 2) }, (_, i) => {
    const token = logits[2 * i] ?? -1
    return [token, found.get(token) ?? 0] as const
  })
  return tokens.map((token) => {
    const logprob = found.get(token)
    return logprob === undefined ? undefined : { logprob, top: best }
  })
}
