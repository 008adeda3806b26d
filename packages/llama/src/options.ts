/** What can be said of a model that is to be loaded. */
import type { Log } from '@kvx/contract'
import type { KvCacheDtype } from './state/geometry.ts'
import type { ReadProgress } from './models/identity.ts'

export interface LoadOptions {
  /** A GGUF file. */
  path: string
  /** Tokens of one request, prompt and answer together. Default: what the model was trained on, at most 2048. */
  contextLength?: number | undefined
  /** Requests that are computed at the same time. Default 1. */
  sequences?: number | undefined
  /** Largest prefill chunk in tokens, at least 2. Default 512. */
  chunkTokens?: number | undefined
  /** Tokens per page. Default 16. */
  pageTokens?: number | undefined
  /**
   * Pages of the pool for each component of the cache that is addressed by tokens, or what gives them for the context length. Default 0: none, for a process that does both
   * prefill and decode.
   */
  pages?: number | ((contextLength: number) => number) | undefined
  /**
   * Slots of the pool for what a model keeps by request, such as the state of Mamba. Default: as many as `sequences` when
   * there are pages, else none.
   */
  stateSlots?: number | undefined
  /** What K is kept as; V is f16. Both sides of a transfer must have the same. Default f16. */
  kvCacheDtype?: KvCacheDtype | undefined
  /** Threads that compute. Default 1. */
  threads?: number | undefined
  /** Told while the file is read whole, to identify it: once for each file, until it changes. */
  onProgress?: ((progress: ReadProgress) => void) | undefined
  log?: Log | undefined
}
