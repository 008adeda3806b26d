/** Log probabilities as SGLang's interface and the two of OpenAI tell them. */
import type { TokenLogprobs } from '@kvx/llama'

/** The bytes of a token. */
export type BytesOf = (token: number) => Uint8Array

export const textOf = (bytesOf: BytesOf, token: number): string =>
  Buffer.from(bytesOf(token)).toString()

/** Tokens with their log probabilities. */
export interface Told {
  readonly tokens: readonly number[]
  readonly logprobs: readonly TokenLogprobs[]
}

/** A list of `[logprob, id, text]`, and one of such lists. */
export function generateLogprobs(
  { tokens, logprobs }: Told,
  text: (token: number) => string | null,
) {
  return {
    chosen: logprobs.map(({ logprob }, i) => tripleOf(logprob, tokens[i] ?? -1, text)),
    top: logprobs.map(({ top }) => top.map(([token, logprob]) => tripleOf(logprob, token, text))),
  }
}

export function tripleOf(
  logprob: number | null,
  token: number,
  text: (token: number) => string | null,
) {
  return [logprob, token, text(token)] as const
}

/** @param offset of the first token's text in that of the answer, in characters */
export function completionLogprobs({ tokens, logprobs }: Told, bytesOf: BytesOf, offset: number) {
  const texts = tokens.slice(0, logprobs.length).map((token) => textOf(bytesOf, token))
  let at = offset
  return {
    tokens: texts,
    token_logprobs: logprobs.map(({ logprob }) => logprob),
    top_logprobs: logprobs.map(({ top }) =>
      Object.fromEntries(top.map(([token, logprob]) => [textOf(bytesOf, token), logprob])),
    ),
    text_offset: texts.map((text) => {
      const begin = at
      at += text.length
      return begin
    }),
  }
}

export function chatLogprobs({ tokens, logprobs }: Told, bytesOf: BytesOf) {
  const told = (token: number, logprob: number) => ({
    token: textOf(bytesOf, token),
    logprob,
    bytes: [...bytesOf(token)],
  })
  const content = logprobs.map(({ logprob, top }, i) => ({
    ...told(tokens[i] ?? -1, logprob),
    top_logprobs: top.map(([token, of]) => told(token, of)),
  }))
  return { content, refusal: null }
}
