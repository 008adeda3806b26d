/** What a prefill rank's engine has connected to: memory of one generation of one target. */
import type { DecodeRank } from './decode.ts'

export interface EngineLink {
  readonly target: DecodeRank
  readonly generation: string
  /** Generation of the writer's engine. */
  readonly writer: string
  state: 'opening' | 'open' | 'closed'
  /** The owner has revoked it (fence kind `peer`). */
  revoked: boolean
  /** An attempt to connect ends soon afterwards; it may still succeed before. */
  abort: () => void
}
