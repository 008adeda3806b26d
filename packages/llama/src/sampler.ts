import type { LlamaContextSequence, LlamaModel as Weights } from 'node-llama-cpp'
import { KvxError } from '@kvx/contract'
import type { History } from './history.ts'
import { logprobsOf, type TokenLogprobs } from './logprobs.ts'
import {
  seedAt,
  type Chosen,
  type ResolvedSampling,
  type Sampled,
  type Samplings,
} from './sampling.ts'

// node-llama-cpp makes a native sampler for every call that evaluates tokens. Each holds 12 bytes for
// every token of the vocabulary until the garbage collector finds it, which does not know of them. So the
// calls below are one level lower than its public ones, with one native sampler for each sequence. They
// are not in its types; the version of node-llama-cpp is therefore an exact one.

interface NativeSampler {
  applyConfig(config: Readonly<Record<string, unknown>>): void
  dispose(): void
}

interface Internals {
  readonly _context: {
    readonly _ctx: {
      sampleToken(logits: number, sampler: NativeSampler): Promise<number>
      /**
       * @param filter tokens whose logits are told, and at last how many of the greatest ones are told before them
       * @returns among others pairs of token and logit, and the sum of the exponentials of all logits less the greatest
       */
      sampleToken(
        logits: number,
        sampler: NativeSampler,
        probabilities: false,
        confidence: false,
        filter: readonly [tokens: readonly number[], false, false, false, top: number],
        weight: true,
      ): Promise<readonly [number, unknown, unknown, readonly number[], number]>
    }
  }
  readonly _tokenMeter: unknown
  _decodeTokens<T>(
    tokens: readonly number[],
    wantsLogits: readonly boolean[],
    priority: number,
    meter: unknown,
    contextShift: { size: number; strategy: 'eraseBeginning' },
    onLogits: (logits: number, index: number) => Promise<T>,
  ): Promise<T[]>
}

/** Which tokens of a prompt are scored: of those that are evaluated now, the one that follows each, if it is. */
export interface Scoring {
  following(index: number): number | undefined
  readonly top: number
}

type Scores = readonly (TokenLogprobs | undefined)[]

/** Evaluates tokens in one sequence, and chooses what comes next. Has one native sampler, used again and again. */
export class Sampler {
  readonly #sequence: Internals
  readonly #native: NativeSampler
  /** Changes nothing: for the logits as they are. */
  readonly #plain: NativeSampler
  readonly #endIds: readonly number[]
  #seed: number | undefined

  /** @param endIds tokens with which the model ends an answer */
  constructor(weights: Weights, sequence: LlamaContextSequence, endIds: readonly number[]) {
    const { _llama, _model } = weights as unknown as {
      _llama: { _bindings: { AddonSampler: new (model: unknown) => NativeSampler } }
      _model: unknown
    }
    this.#sequence = sequence as unknown as Internals
    this.#native = new _llama._bindings.AddonSampler(_model)
    this.#plain = new _llama._bindings.AddonSampler(_model)
    this.#plain.applyConfig({ temperature: 0 })
    this.#endIds = endIds
  }

  /** Evaluates tokens behind what the sequence holds. Answers the scores, by index. */
  async evaluate(tokens: readonly number[], scoring?: Scoring): Promise<Scores> {
    const wanted = tokens.map((_, i) => scoring?.following(i) !== undefined)
    return this.#decode(tokens, wanted, (logits, i) => this.#score(logits, i, scoring))
  }

  /**
   * Evaluates tokens behind what the sequence holds, and samples one that follows for each way of choosing it.
   *
   * @param history ends with these tokens
   */
  async next(
    tokens: readonly number[],
    samplings: Samplings,
    history: History,
    scoring?: Scoring,
  ): Promise<{ readonly chosen: Sampled; readonly scores: Scores }> {
    const last = tokens.length - 1
    const wanted = tokens.map((_, i) => i === last || scoring?.following(i) !== undefined)
    let chosen: Chosen[] = []
    const scores = await this.#decode(tokens, wanted, async (logits, i) => {
      if (i === last) chosen = await this.#choose(logits, samplings, history)
      return this.#score(logits, i, scoring)
    })
    if (chosen.length === 0 || chosen.some(({ token }) => token < 0)) {
      throw new KvxError('ERR_KVX_MODEL', 'llama.cpp could not sample a token.', {
        phase: 'decode',
      })
    }
    return { chosen: chosen as Sampled, scores }
  }

  async #choose(logits: number, samplings: Samplings, history: History): Promise<Chosen[]> {
    const chosen: Chosen[] = []
    for (const sampling of samplings) {
      this.#configure(sampling, history)
      const token = await this.#sequence._context._ctx.sampleToken(logits, this.#native)
      const { topLogprobs: top } = sampling
      const [logprobs] = top === undefined ? [] : await this.#logprobs(logits, [token], top)
      chosen.push({ token, logprobs })
    }
    return chosen
  }

  async #score(logits: number, index: number, scoring: Scoring | undefined) {
    const token = scoring?.following(index)
    if (scoring === undefined || token === undefined) return undefined
    const [logprobs] = await this.#logprobs(logits, [token], scoring.top)
    return logprobs
  }

  async #logprobs(logits: number, tokens: readonly number[], top: number) {
    // The greatest is always told: the others are told from it.
    const filter = [tokens, false, false, false, Math.max(1, top)] as const
    const context = this.#sequence._context._ctx
    const told = await context.sampleToken(logits, this.#plain, false, false, filter, true)
    const [, , , pairs, weight] = told
    return logprobsOf(pairs, weight, tokens, top)
  }

  dispose(): void {
    this.#native.dispose()
    this.#plain.dispose()
  }

  #decode<T>(
    tokens: readonly number[],
    wantsLogits: readonly boolean[],
    onLogits: (logits: number, index: number) => Promise<T>,
  ): Promise<T[]> {
    const sequence = this.#sequence
    // The context is never full, so nothing is ever shifted.
    const shift = { size: 1, strategy: 'eraseBeginning' } as const
    return sequence._decodeTokens(tokens, wantsLogits, 5, sequence._tokenMeter, shift, onLogits)
  }

  #configure(sampling: ResolvedSampling, history: History): void {
    const { temperature, topK, topP, minP, repetitionPenalty } = sampling
    const seed = seedAt(sampling.seed, history.length)
    const biases = [...logitChanges(sampling, history, this.#endIds)]
    const config = {
      temperature,
      topK,
      topP,
      minP,
      seed,
      ...(repetitionPenalty !== 1 && {
        repeatPenalty: repetitionPenalty,
        repeatPenaltyMaxTokens: history.capacity,
        repeatPenaltyTokens: history.all(),
      }),
      ...(biases.length > 0 && {
        tokenBiasKeys: Uint32Array.from(biases, ([token]) => token),
        tokenBiasValues: Float32Array.from(biases, ([, change]) => change),
      }),
    }
    // With the seed that it has already, a native sampler goes on drawing where it was.
    if (seed === this.#seed) this.#native.applyConfig({ ...config, seed: seed + 1 })
    this.#native.applyConfig(config)
    this.#seed = seed
  }
}

/** What is added to the logits of single tokens before the next one is chosen. */
export function logitChanges(
  sampling: ResolvedSampling,
  history: History,
  endIds: readonly number[],
): Map<number, number> {
  const { logitBias, presencePenalty, frequencyPenalty, minTokens, ignoreEos } = sampling
  const changes = new Map(logitBias)
  if (presencePenalty !== 0 || frequencyPenalty !== 0) {
    for (const [token, count] of history.counts) {
      const penalty = presencePenalty + frequencyPenalty * count
      changes.set(token, (changes.get(token) ?? 0) - penalty)
    }
  }
  if (history.generated < minTokens) {
    for (const token of sampling.stopTokenIds) changes.set(token, -Infinity)
    if (!ignoreEos) for (const token of endIds) changes.set(token, -Infinity)
  }
  return changes
}
