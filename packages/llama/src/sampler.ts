import type { LlamaContextSequence, LlamaModel as Weights } from 'node-llama-cpp'
import { KvxError } from '@kvx/contract'
import type { History } from './history.ts'
import { seedAt, type ResolvedSampling, type Sampled, type Samplings } from './sampling.ts'

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
    }
  }
  readonly _tokenMeter: unknown
  _decodeTokens<T>(
    tokens: readonly number[],
    wantsLogits: readonly boolean[],
    priority: number,
    meter: unknown,
    contextShift: { size: number; strategy: 'eraseBeginning' },
    onLogits: (logits: number) => Promise<T>,
  ): Promise<T[]>
}

/** Evaluates tokens in one sequence, and chooses what comes next. Has one native sampler, used again and again. */
export class Sampler {
  readonly #sequence: Internals
  readonly #native: NativeSampler
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
    this.#endIds = endIds
  }

  /** Evaluates tokens behind what the sequence holds. */
  async evaluate(tokens: readonly number[]): Promise<void> {
    await this.#decode(tokens, [], () => Promise.resolve([]))
  }

  /**
   * Evaluates tokens behind what the sequence holds, and samples one that follows for each way of choosing it.
   *
   * @param history ends with these tokens
   */
  async next(tokens: readonly number[], samplings: Samplings, history: History): Promise<Sampled> {
    const wantsLogits: boolean[] = []
    wantsLogits[tokens.length - 1] = true
    const output = await this.#decode(tokens, wantsLogits, async (logits) => {
      const chosen: number[] = []
      for (const sampling of samplings) {
        this.#configure(sampling, history)
        chosen.push(await this.#sequence._context._ctx.sampleToken(logits, this.#native))
      }
      return chosen
    })
    const chosen = output.at(-1)
    if (chosen === undefined || chosen.some((token) => token < 0)) {
      throw new KvxError('ERR_KVX_MODEL', 'llama.cpp could not sample a token.', {
        phase: 'decode',
      })
    }
    return chosen as Sampled
  }

  dispose(): void {
    this.#native.dispose()
  }

  #decode<T>(
    tokens: readonly number[],
    wantsLogits: readonly boolean[],
    onLogits: (logits: number) => Promise<T>,
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
