import { KvxError, isKvxError, type Memory } from '@kvx/contract'
import { addon } from './addon.ts'
import { handleOf } from './memory.ts'

/** Tokens of a contiguous buffer (a saved model state, say) and the pages that hold, or shall hold, the same tokens. */
export interface TokenCopy {
  /** Tokens one after the other, as a model's state has them. */
  readonly buffer: Uint8Array
  /** Made by `allocate`. */
  readonly memory: Memory
  /**
   * Rows of 7: bufferBase, bufferRunStride, pageBase, pageBytes, pageRunStride, runs, tokenBytes.
   * Run k of token t lies in the buffer at `bufferBase + k · bufferRunStride + t · tokenBytes`, in the
   * memory at `pageBase + pages[⌊t / pageTokens⌋] · pageBytes + k · pageRunStride + (t mod pageTokens) · tokenBytes`.
   */
  readonly tensors: Float64Array
  /** `pages[i]` holds the tokens from `i · pageTokens` on. */
  readonly pages: Int32Array
  /** Tokens of a page. */
  readonly pageTokens: number
  /** Half-open range of tokens. */
  readonly from: number
  /** Exclusive. */
  readonly to: number
}

/** Numbers of a row of `TokenCopy.tensors`. */
export const tensorWidth = 7

/**
 * Copies tokens from the buffer into pages. Nothing is copied unless all of it fits.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_INVALID_STATE` for freed memory
 */
export function scatter(copy: TokenCopy): void {
  run('scatter', copy)
}

/**
 * Copies tokens from pages into the buffer: the reverse of `scatter`.
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`, `ERR_KVX_INVALID_STATE` for freed memory
 */
export function gather(copy: TokenCopy): void {
  run('gather', copy)
}

function run(name: 'scatter' | 'gather', copy: TokenCopy): void {
  const { buffer, memory, tensors, pages, pageTokens, from, to } = copy
  try {
    addon()[name](buffer, handleOf(memory), tensors, pages, pageTokens, from, to)
  } catch (cause) {
    if (isKvxError(cause)) throw cause
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `The tokens cannot be copied (${name}): ${(cause as Error).message}.`,
      { cause },
    )
  }
}
