import { scatter } from '@kvx/native'
import { KvxError } from '@kvx/contract'
import { throwIfAborted } from './abort.ts'
import { evaluatePrompt, release } from './evaluate.ts'
import type { LlamaModel, Slot } from './model.ts'
import { resolveSampling, type Sampling } from './sampling.ts'
import { checkState, stateShape } from './state/blob.ts'
import { saveState } from './state/scratch.ts'
import { stateTensors } from './state/tensors.ts'

export interface PrefillRequest {
  readonly tokens: readonly number[]
  /** Pages of the model's pool, in the order of the prompt: one for every `pageTokens` tokens begun. */
  readonly pages: Int32Array
  readonly sampling?: Sampling | undefined
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
   * Half-open range of positions in `pages` that became complete with this chunk, to be sent now. A page
   * that the next chunk goes on with is left to it, so no page comes twice.
   */
  readonly pages: readonly [number, number]
  readonly last: boolean
}

export interface PrefillResult {
  /** First token of the answer; may be an end-of-generation token. */
  readonly firstToken: number
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
  checkPages(model, tokens.length, pages)
  if (!Number.isInteger(chunkTokens) || chunkTokens < 2 || chunkTokens > model.chunkTokens) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `A prefill chunk of ${String(chunkTokens)} tokens: 2 to ${String(model.chunkTokens)} are possible.`,
    )
  }
  const sampling = resolveSampling(request.sampling, model.vocabularySize)
  const { pageTokens } = model.layout
  let sent = 0
  let chunks = 0
  const slot = await model.slots.acquire(signal)
  try {
    request.onTurn?.()
    const prompt = { tokens, chunkTokens, sampling, signal }
    const firstToken = await evaluatePrompt(model, slot, prompt, async (start, end) => {
      await savePages(model, slot, tokens, pages, start, end)
      throwIfAborted(signal)
      const last = end === tokens.length
      const ready = last ? pages.length : Math.floor(end / pageTokens)
      chunks++
      await onChunk?.({ tokens: [start, end], pages: [sent, ready], last })
      sent = ready
    })
    return { firstToken, chunks }
  } finally {
    await release(model, slot)
  }
}

/** Puts tokens `start` to `end` of a sequence that holds `end` tokens into their pages. */
async function savePages(
  model: LlamaModel,
  slot: Slot,
  tokens: readonly number[],
  pages: Int32Array,
  start: number,
  end: number,
): Promise<void> {
  const { geometry, layout, memory } = model
  const held = tokens.slice(0, end)
  const { bytes } = stateShape(geometry, end, slot.place)
  const blob = await model.gate.exclusive(() => saveState(slot.sequence, bytes))
  checkState(blob, geometry, held, slot.place)
  scatter({
    buffer: blob,
    memory,
    tensors: stateTensors(geometry, layout, end, slot.place),
    pages,
    pageTokens: layout.pageTokens,
    from: start,
    to: end,
  })
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` when `pages` cannot be those of so many tokens */
export function checkPages(model: LlamaModel, tokens: number, pages: Int32Array): void {
  const needed = Math.ceil(tokens / model.layout.pageTokens)
  if (pages.length !== needed) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `${String(tokens)} tokens need ${String(needed)} pages, not ${String(pages.length)}.`,
    )
  }
  const exist = model.layout.pages.kv ?? 0
  const foreign = pages.find((page) => page < 0 || page >= exist)
  if (foreign !== undefined || new Set(pages).size !== pages.length) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      foreign === undefined
        ? 'A page is named twice.'
        : `There is no page ${String(foreign)}; the pool has ${String(exist)}.`,
    )
  }
}
