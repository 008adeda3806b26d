import type { CompletionRequest } from '../http/request.ts'
import type { Events } from './events.ts'

/** One request that has passed every check that needs no other process. */
export interface Call {
  readonly request: CompletionRequest
  /** The prompt's token ids; at least one. */
  readonly tokens: readonly number[]
  /** Aborted when nobody wants the answer any more. */
  readonly signal: AbortSignal
  readonly events: Events
}
