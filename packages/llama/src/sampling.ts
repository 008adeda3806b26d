import { createHash, randomInt } from 'node:crypto'
import { KvxError } from '@kvx/contract'
import type { TokenLogprobs } from './logprobs.ts'

/**
 * How the tokens of one answer are chosen, and which of them end it. Prefill samples the first token and
 * decode the others, so both must be given the same.
 *
 * A logit is first moved by `logitBias` and by the presence and frequency penalties, then scaled by the
 * repetition penalty. `topK`, `topP` and `minP` then take candidates away, in this order and on the
 * probabilities before the temperature, as llama.cpp does; the temperature comes last.
 */
export interface Sampling {
  /** 0 (the default): the most probable token, always. */
  readonly temperature?: number | undefined
  /** Only the k most probable tokens; 0 (the default): all. */
  readonly topK?: number | undefined
  /** Only the most probable tokens that together have this probability. Default 1: all. */
  readonly topP?: number | undefined
  /** Only tokens that are at least this fraction as probable as the most probable one. Default 0: all. */
  readonly minP?: number | undefined
  /** Any safe integer. Prefill and decode of one request must be given the same. Default: random. */
  readonly seed?: number | undefined
  /** Subtracted once from the logit of every token that the answer has so far. −2 … 2, default 0. */
  readonly presencePenalty?: number | undefined
  /** Subtracted from the logit of a token for every time the answer has it so far. −2 … 2, default 0. */
  readonly frequencyPenalty?: number | undefined
  /**
   * Divides the logit of every token that prompt or answer have so far, or multiplies it where it is
   * negative. Greater than 0 and at most 10; default 1: nothing.
   */
  readonly repetitionPenalty?: number | undefined
  /** Added to the logits of these tokens, −100 … 100; at most 1024 of them. */
  readonly logitBias?: ReadonlyMap<number, number> | undefined
  /** As long as the answer has fewer tokens, none that would end it is chosen. Default 0. */
  readonly minTokens?: number | undefined
  /** A token with which the model ends its answer is one like any other. */
  readonly ignoreEos?: boolean | undefined
  /** Tokens that end the answer, as those of the model do; at most 256. */
  readonly stopTokenIds?: Iterable<number> | undefined
  /**
   * Also the log probability of each token of the answer, and of so many of the most probable ones at its place: 0 to 20. Default:
   * none. Changes no token.
   */
  readonly topLogprobs?: number | undefined
}

export interface ResolvedSampling {
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly minP: number
  readonly seed: number
  readonly presencePenalty: number
  readonly frequencyPenalty: number
  readonly repetitionPenalty: number
  readonly logitBias: ReadonlyMap<number, number>
  readonly minTokens: number
  readonly ignoreEos: boolean
  readonly stopTokenIds: ReadonlySet<number>
  readonly topLogprobs: number | undefined
}

/** The most that one request may name: each is looked at for every token. */
const maxBiases = 1024
const maxStopTokens = 256
/** As OpenAI's interface has it. */
export const maxTopLogprobs = 20

/**
 * @param vocabularySize the token ids that exist are 0 up to this
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function resolveSampling(
  sampling: Sampling = {},
  vocabularySize = Infinity,
): ResolvedSampling {
  const {
    temperature = 0,
    topK = 0,
    topP = 1,
    minP = 0,
    seed = randomInt(2 ** 47),
    presencePenalty = 0,
    frequencyPenalty = 0,
    repetitionPenalty = 1,
    logitBias = new Map<number, number>(),
    minTokens = 0,
    ignoreEos = false,
    topLogprobs,
  } = sampling
  const stopTokenIds = new Set(sampling.stopTokenIds)
  const within = (name: string, value: number, from: number, to: number): void => {
    if (!(value >= from && value <= to)) {
      throw invalid(name, value, `a number from ${String(from)} to ${String(to)}`)
    }
  }
  const known = (name: string, ids: readonly number[], most: number): void => {
    if (ids.length > most) {
      throw new KvxError(
        'ERR_KVX_INVALID_ARGUMENT',
        `${name} has ${String(ids.length)} tokens; ${String(most)} are possible.`,
      )
    }
    for (const id of ids) {
      if (Number.isSafeInteger(id) && id >= 0 && id < vocabularySize) continue
      throw new KvxError(
        'ERR_KVX_INVALID_ARGUMENT',
        `${name} has the token id ${String(id)}; this model knows 0 to ${String(vocabularySize - 1)}.`,
      )
    }
  }
  within('temperature', temperature, 0, 100)
  if (!Number.isSafeInteger(topK) || topK < 0) {
    throw invalid('top_k', topK, 'a whole number of tokens, or 0 for all')
  }
  if (!(topP > 0 && topP <= 1)) throw invalid('top_p', topP, 'greater than 0 and at most 1')
  within('min_p', minP, 0, 1)
  if (!Number.isSafeInteger(seed)) {
    throw invalid('seed', seed, 'a whole number between -2^53 and 2^53')
  }
  within('presence_penalty', presencePenalty, -2, 2)
  within('frequency_penalty', frequencyPenalty, -2, 2)
  if (!(repetitionPenalty > 0 && repetitionPenalty <= 10)) {
    throw invalid('repetition_penalty', repetitionPenalty, 'greater than 0 and at most 10')
  }
  known('logit_bias', [...logitBias.keys()], maxBiases)
  for (const bias of logitBias.values()) within('logit_bias', bias, -100, 100)
  if (!Number.isSafeInteger(minTokens) || minTokens < 0) {
    throw invalid('min_tokens', minTokens, 'a whole number of tokens')
  }
  known('stop_token_ids', [...stopTokenIds], maxStopTokens)
  if (
    topLogprobs !== undefined &&
    !(Number.isInteger(topLogprobs) && topLogprobs >= 0 && topLogprobs <= maxTopLogprobs)
  ) {
    throw invalid('top_logprobs', topLogprobs, `a whole number from 0 to ${String(maxTopLogprobs)}`)
  }
  return {
    temperature,
    topK,
    topP,
    minP,
    seed,
    presencePenalty,
    frequencyPenalty,
    repetitionPenalty,
    logitBias,
    minTokens,
    ignoreEos,
    stopTokenIds,
    topLogprobs,
  }
}

/** What chooses a token for each answer to one prompt. */
export type Samplings = readonly [ResolvedSampling, ...ResolvedSampling[]]
/** A token, with its log probabilities where they are wanted. */
export interface Chosen {
  readonly token: number
  readonly logprobs: TokenLogprobs | undefined
}
/** A token for each of them. */
export type Sampled = [Chosen, ...Chosen[]]

/** How the k-th of several answers to one prompt is chosen: as all others, with a seed of its own. */
export function sampleOf(sampling: ResolvedSampling, k: number): ResolvedSampling {
  return k === 0 ? sampling : { ...sampling, seed: sampling.seed + k }
}

/**
 * Seed of one draw, a function of the request's seed and the position of the drawn token alone. So a
 * decode process that begins in the middle draws what a process that did everything would have drawn.
 *
 * @returns 0 … 2^32 − 2 (2^32 − 1 means "random" to llama.cpp)
 */
export function seedAt(seed: number, position: number): number {
  const digest = createHash('sha256')
    .update(`${String(seed)}:${String(position)}`)
    .digest()
  return digest.readUInt32LE(0) % 0xffff_ffff
}

function invalid(name: string, value: unknown, wanted: string): KvxError {
  return new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `${name} is ${String(value)}, but must be ${wanted}.`,
  )
}
