import { KvxError } from '@kvx/contract'
import { throwIfAborted } from './abort.ts'
import { evaluatePrompt, release } from './evaluate.ts'
import type { LlamaModel, Slot } from './model.ts'
import { resolveSampling, sampleOf, type Sampling } from './sampling.ts'
import { checkState, describeState } from './state/blob.ts'
import { checkPages, saveRows, type CachePages, type PromptCache } from './state/rows.ts'
import { saveState } from './state/scratch.ts'

export interface PrefillRequest {
  readonly tokens: readonly number[]
  /**
   * Pages of the model's pool for what decode will need: of `kv` one for every `pageTokens` tokens begun, of `swa` those
   * with the last `window` tokens, or more, of `mamba` one slot.
   */
  readonly pages: CachePages
  readonly sampling?: Sampling | undefined
  /** Answers that are to begin here; see `sampleOf`. Default 1. */
  readonly samples?: number | undefined
  /** Tokens per chunk, from 2 to the model's `chunkTokens`, which is the default. */
  readonly chunkTokens?: number | undefined
  /** Called when this prompt's turn at the model has come. */
  readonly onTurn?: (() => void) | undefined
  /** Called when a chunk is in the pages; the next is computed when it has returned. */
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
  const sampling = resolveSampling(request.sampling, model.vocabularySize)
  const others = Array.from({ length: (request.samples ?? 1) - 1 }, (_, k) =>
    sampleOf(sampling, k + 1),
  )
  const samplings = [sampling, ...others] as const
  const ready = readyPages(model, tokens.length, pages)
  const { cache, memory } = model
  const prompt = { cache, memory, pages, tokens: tokens.length }
  let chunks = 0
  const slot = await model.slots.acquire(signal)
  try {
    request.onTurn?.()
    const work = { tokens, chunkTokens, samplings, signal }
    const [firstToken, ...otherFirstTokens] = await evaluatePrompt(
      model,
      slot,
      work,
      async (start, end) => {
        await savePages(model, slot, prompt, tokens.slice(0, end), start)
        throwIfAborted(signal)
        chunks++
        const last = end === tokens.length
        await onChunk?.({ tokens: [start, end], pages: ready(end), last })
      },
    )
    return { firstToken, otherFirstTokens, chunks }
  } finally {
    await release(model, slot)
  }
}

/** Puts what a sequence has of the tokens from `start` on into their pages. */
async function savePages(
  model: LlamaModel,
  slot: Slot,
  prompt: PromptCache,
  held: readonly number[],
  start: number,
): Promise<void> {
  const { geometry } = model
  const { bytes, rows } = describeState(geometry, held, slot.place, 'saved')
  const blob = await model.turns.exclusive(() => saveState(slot.sequence, bytes))
  checkState(blob, geometry, held, slot.place, 'saved')
  saveRows(blob, rows, prompt, [start, held.length])
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
