/** What a world is like, and what may go wrong in it. */
import type { FenceKind } from '@kvx/contract'

export const faultKinds = [
  'lost connection',
  'crash of prefill',
  'crash of decode',
  'freeze of prefill',
  'freeze of decode',
  'abort of prefill',
  'abort of decode',
  'failed write',
  'lost completion',
  'late settling',
  'no settling',
  'failed connect',
  'delay',
  'unsaid message',
  'damaged bytes',
] as const
export type FaultKind = (typeof faultKinds)[number]

export interface Spec {
  readonly name: string
  readonly fence: FenceKind
  /** Fence kind `engine`: closing the writer's engine does not tell what has landed. */
  readonly sockets: boolean
  readonly layers: number
  /** Of each side's pool. */
  readonly pages: number
  /** Of each prompt; each is one write, unless all are (`wholeWrites`). */
  readonly promptPages: number
  readonly pageTokens: number
  /** Tokens of the prompt that decode has already, as its host says. */
  readonly prefixTokens: number
  /** Whole prompts are written at once, without the pages that hold nothing but the prefix. */
  readonly wholeWrites: boolean
  /**
   * A second component, of one slot for each request. Prefill's host writes both layer by layer, and tries to finish
   * before all is written, which must be refused.
   */
  readonly byLayers: boolean
  /** How many bytes may be on their way to decode. */
  readonly credit: number
  readonly jobs: number
  /** A request begins when all is at rest, and finds what the one before has left. */
  readonly oneByOne: boolean
  /** What the last request never gets, so that it must fail; the others must not. */
  readonly lacks: 'prefill leg' | 'pages' | undefined
  /** Moments that each request waits for its turn at decode, and then at prefill. */
  readonly queued: readonly [decode: number, prefill: number]
  /** Decode gives its pages when prefill asks for them. */
  readonly late: boolean
  /** Hosts take their time: it may pass before they do the next thing. */
  readonly slowHosts: boolean
  /** To prefill, or to decode: what was said last on a connection that is lost comes again on the next. */
  readonly repeats: readonly ('up' | 'down')[]
  /** Decode compares digests of what has landed. */
  readonly verify: boolean
  /** States that differ in the kinds of faults that have happened are told apart, for the coverage table. */
  readonly tellsFaults: boolean
  /** A process that dies does not come back. */
  readonly staysDead: boolean
  /** Engines may tell that a peer has ended. */
  readonly tells: boolean
  /** What may go wrong, and how often at most. */
  readonly faults: readonly FaultKind[]
  readonly most: number
}
