import { KvxError } from '@kvx/contract'
import { throwIfAborted } from './abort.ts'
import type { ModelCache } from './cache.ts'
import { loadPages } from './decode.ts'
import { evaluatePrompt, release } from './evaluate.ts'
import type { PromptScoring, TokenLogprobs } from './logprobs.ts'
import type { LlamaModel } from './model.ts'
import { resolveSampling, sampleOf, type Sampling } from './sampling.ts'
import { Saving } from './saving.ts'
import { checkPages, type CachePages } from './state/rows.ts'

export interface PrefillRequest {
  readonly tokens: readonly number[]
  /**
   * Pages of the model's pool for what decode will need: of `kv` one for every `pageTokens` tokens begun, of `swa` those
   * with the last `window` tokens, or more, of `mamba` one slot.
   */
  readonly pages: CachePages
  /**
   * Tokens of the prompt whose cache lies in the first of these pages already, computed as (part of) a prompt of at least two
   * tokens: they are not computed again. Whole pages, and at least two tokens less than the prompt; only for a model that
   * keeps pages of all tokens and nothing else. Default 0.
   */
  readonly cachedTokens?: number | undefined
  readonly sampling?: Sampling | undefined
  /** Answers that are to begin here; see `sampleOf`. Default 1. */
  readonly samples?: number | undefined
  /** Also the log probabilities of tokens of the prompt; the prompt is then computed in small chunks. */
  readonly scoring?: PromptScoring | undefined
  /** Tokens per chunk, from 2 to the model's `chunkTokens`, which is the default. */
  readonly chunkTokens?: number | undefined
  /** Called when this prompt's turn at the model has come. */
  readonly onTurn?: (() => void) | undefined
  /**
   * Called when a chunk is in the pages. The next one is computed meanwhile; its turn comes when this call has returned.
   */
  readonly onChunk?: ((chunk: PrefillChunk) => void | Promise<void>) | undefined
  readonly signal?: AbortSignal | undefined
}

export interface PrefillChunk {
  /** Half-open range of the prompt's tokens. */
  readonly tokens: readonly [number, number]
  /**
   * Of each component that is addressed by tokens: half-open range of positions in its pages that became complete with
   * this chunk, to be sent now. A page that the next chunk goes on with is left to it, so no page comes twice. What is
   * addressed by request is complete with the last chunk.
   */
  readonly pages: Readonly<Record<string, readonly [number, number]>>
  readonly last: boolean
}

export interface PrefillResult {
  /** First token of the answer, or of its first sample; may be an end-of-generation token. */
  readonly firstToken: number
  /** Those of the other samples. */
  readonly otherFirstTokens: readonly number[]
  /** One for each sample; empty unless `Sampling.topLogprobs` asks for them. */
  readonly firstLogprobs: readonly TokenLogprobs[]
  /** Of the tokens of the prompt from `scoring.from` on. */
  readonly scores: readonly TokenLogprobs[]
  readonly chunks: number
}

/**
 * Computes a prompt, one at a time, and puts its cache into pages chunk by chunk. The pages then hold
 * exactly the prompt.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_ABORTED`, `ERR_KVX_CLOSED`,
 *   `ERR_KVX_MODEL_STATE`, and whatever `onChunk` throws
 */
export async function prefill(model: LlamaModel, request: PrefillRequest): Promise<PrefillResult> {
  const { tokens, pages, signal, onChunk } = request
  const chunkTokens = request.chunkTokens ?? model.chunkTokens
  model.checkRequest(tokens, 1)
  checkPages(model.cache, tokens.length, pages)
  if (!Number.isInteger(chunkTokens) || chunkTokens < 2 || chunkTokens > model.chunkTokens) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `A prefill chunk of ${String(chunkTokens)} tokens: 2 to ${String(model.chunkTokens)} are possible.`,
    )
  }
  const { cachedTokens = 0 } = request
  const cached = cachedPages(model.cache, tokens.length, pages, cachedTokens)
  const sampling = resolveSampling(request.sampling, model.vocabularySize)
  const others = Array.from({ length: (request.samples ?? 1) - 1 }, (_, k) =>
    sampleOf(sampling, k + 1),
  )
  const samplings = [sampling, ...others] as const
  const ready = readyPages(model, tokens.length, pages)
  ready(cachedTokens)
  let chunks = 0
  const onSaved = async (start: number, end: number) => {
    throwIfAborted(signal)
    chunks++
    await onChunk?.({ tokens: [start, end], pages: ready(end), last: end === tokens.length })
  }
  const slot = await model.slots.acquire(signal)
  const saving = new Saving(model, slot, { tokens, pages, onSaved })
  try {
    if (cachedTokens > 0) await loadPages(model, slot, tokens.slice(0, cachedTokens), cached)
    request.onTurn?.()
    const { scoring } = request
    const work = { tokens, start: cachedTokens, chunkTokens, samplings, scoring, signal }
    const { first, scores } = await evaluatePrompt(model, slot, work, (start, end) =>
      saving.chunk(start, end),
    )
    const [{ token: firstToken }, ...others] = first
    return {
      firstToken,
      otherFirstTokens: others.map(({ token }) => token),
      firstLogprobs: first.flatMap(({ logprobs }) => (logprobs ? [logprobs] : [])),
      scores,
      chunks,
    }
  } finally {
    await saving.end()
    await release(model, slot)
  }
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when these pages cannot hold the cache of so many first tokens of the prompt */
function cachedPages(
  { shape, place }: ModelCache,
  prompt: number,
  pages: CachePages,
  tokens: number,
): CachePages {
  if (tokens === 0) return {}
  const entries = shape.components.map(({ name, window }) => {
    const { pageTokens } = place.components[name] ?? {}
    const given = pages[name] ?? Int32Array.of()
    const fits =
      pageTokens !== undefined &&
      window === undefined &&
      tokens % pageTokens === 0 &&
      given.length === Math.ceil(prompt / pageTokens)
    if (!fits || tokens < 0 || tokens > prompt - 2) {
      throw new KvxError(
        'ERR_KVX_INVALID_ARGUMENT',
        `cachedTokens is ${String(tokens)}: it must be whole pages of '${name}', of which the request names all, and leave at least 2 of the ${String(prompt)} tokens to compute; a sliding window or a state cannot be cached.`,
      )
    }
    return [name, given.subarray(0, tokens / pageTokens)] as const
  })
  return Object.fromEntries(entries)
}

/** Which positions of each list of pages are complete when `end` tokens are computed, and were not before. */
function readyPages(
  { cache }: LlamaModel,
  tokens: number,
  pages: CachePages,
): (end: number) => PrefillChunk['pages'] {
  const sent = new Map<string, number>()
  return (end) => {
    const ready: Record<string, readonly [number, number]> = {}
    for (const [name, { pageTokens }] of Object.entries(cache.place.components)) {
      if (pageTokens === undefined) continue
      const given = pages[name]?.length ?? 0
      const first = Math.ceil(tokens / pageTokens) - given
      const whole = Math.max(0, Math.floor(end / pageTokens) - first)
      const next = end === tokens ? given : whole
      ready[name] = [sent.get(name) ?? 0, next]
      sent.set(name, next)
    }
    return ready
  }
}
