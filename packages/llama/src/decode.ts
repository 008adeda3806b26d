import { release } from './evaluate.ts'
import { answer, generation, type Generation } from './generation.ts'
import type { TokenLogprobs } from './logprobs.ts'
import type { LlamaModel, Slot } from './model.ts'
import { resolveSampling, type Sampling } from './sampling.ts'
import { buildState, checkState, describeState } from './state/blob.ts'
import { checkPages, loadRows, type CachePages } from './state/rows.ts'

export interface DecodeRequest {
  /** The prompt. */
  readonly tokens: readonly number[]
  /** Pages of the model's pool that hold what is needed of the prompt's cache. */
  readonly pages: CachePages
  /** As prefill sampled it. */
  readonly firstToken: number
  /** Of the first token, where they are wanted. */
  readonly firstLogprobs?: TokenLogprobs | undefined
  readonly maxTokens: number
  /** The same as prefill was given. */
  readonly sampling?: Sampling | undefined
  /** Called once the pages have been read: they are not needed any more. */
  readonly onLoaded?: (() => void) | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * Goes on with a prompt that was prefilled elsewhere, without computing it again. Several run at the same
 * time; when no sequence is free, a request waits its turn after its first token.
 *
 * @throws KvxError at once: `ERR_KVX_INVALID_ARGUMENT`; while iterating: `ERR_KVX_ABORTED`,
 *   `ERR_KVX_CLOSED`, `ERR_KVX_MODEL_STATE`
 */
export function decode(model: LlamaModel, request: DecodeRequest): Generation {
  const { tokens, pages, maxTokens, signal } = request
  const first = { token: request.firstToken, logprobs: request.firstLogprobs }
  model.checkRequest(tokens, maxTokens)
  checkPages(model.cache, tokens.length, pages)
  const sampling = resolveSampling(request.sampling, model.vocabularySize)
  return generation(async function* (progress) {
    let slot: Slot | undefined
    const open = async (): Promise<Slot> => {
      const opened = (slot = await model.slots.acquire(signal))
      await loadPages(model, opened, tokens, pages)
      request.onLoaded?.()
      return opened
    }
    const rest = { prompt: tokens, maxTokens, sampling, signal }
    try {
      yield* answer(model, progress, first, rest, open)
    } finally {
      if (slot) await release(model, slot)
    }
  })
}

/**
 * Makes the sequence hold exactly the prompt whose cache is in the pages.
 *
 * @internal
 */
export async function loadPages(
  model: LlamaModel,
  slot: Slot,
  tokens: readonly number[],
  pages: CachePages,
): Promise<void> {
  const { geometry, cache, memory, loading } = model
  const state = await loading.acquire()
  try {
    const described = describeState(geometry, tokens, slot.place, 'loaded')
    const blob = state.view(described.bytes)
    buildState(blob, geometry, described)
    loadRows(blob, described.rows, { cache, memory, pages, tokens: tokens.length })
    checkState(blob, described)
    await model.turns.exclusive(() => state.load(slot.sequence))
  } finally {
    loading.release(state)
  }
}
