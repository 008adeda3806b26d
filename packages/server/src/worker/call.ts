import type { ResolvedSampling } from '@kvx/llama'
import type { CompletionRequest } from '../http/request.ts'
import type { Events } from './events.ts'

/** One request that has passed every check that needs no other process. */
export interface Call {
  readonly request: CompletionRequest
  /** The prompt's token ids; at least one. */
  readonly tokens: readonly number[]
  /** The most that the answer may have. */
  readonly maxTokens: number
  /** The same on both sides of a transfer. */
  readonly sampling: ResolvedSampling
  /** Aborted when nobody wants the answer any more. */
  readonly signal: AbortSignal
  readonly events: Events
}
