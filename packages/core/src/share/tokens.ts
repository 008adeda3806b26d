/**
 * Which tokens of a prompt a context-parallel rank holds, and at which of its own positions. Without context parallelism a
 * rank holds all of them, each at its own number.
 */
import type { Rank } from './rank.ts'

/** The tokens of a rank among all, numbered from 0 in its own pages. Half-open ranges. */
export interface Held {
  /** Of the prompt: what it holds lies in here. */
  readonly first: number
  readonly end: number
  /** It holds every `of`-th stretch of `stretch` tokens, beginning with number `at`; of 1: all of them. */
  readonly at: number
  readonly of: number
  readonly stretch: number
}

/**
 * What `rank` holds of a prompt of `tokens` tokens, of a component with pages of `pageTokens` tokens.
 *
 * `contiguous` divides the pages of the prompt evenly, the first ranks take the remainder, as SGLang does. `interleave: k`
 * deals out stretches of k tokens in turn.
 */
export function heldTokens(rank: Rank, tokens: number, pageTokens: number): Held {
  const { cp, cpSize, context } = rank
  const whole = { first: 0, end: tokens, at: 0, of: 1, stretch: 1 }
  if (cpSize === 1 || context === 'all') return whole
  if (context === 'contiguous') {
    const pages = Math.ceil(tokens / pageTokens)
    const [each, extra] = [Math.floor(pages / cpSize), pages % cpSize]
    const first = Math.min(tokens, (cp * each + Math.min(cp, extra)) * pageTokens)
    const end = Math.min(tokens, first + (each + (cp < extra ? 1 : 0)) * pageTokens)
    return { ...whole, first, end }
  }
  return { ...whole, at: cp, of: cpSize, stretch: context.interleave }
}

/** How many tokens before `token` it holds: the position of `token`, where it holds that. */
export function position({ first, end, at, of, stretch }: Held, token: number): number {
  const t = Math.min(Math.max(token, first), end) - first
  const round = stretch * of
  const rest = t % round
  return Math.floor(t / round) * stretch + Math.min(Math.max(rest - at * stretch, 0), stretch)
}

/** The token of the prompt at a position of its own. */
export function tokenAt({ first, at, of, stretch }: Held, at_: number): number {
  return first + (Math.floor(at_ / stretch) * of + at) * stretch + (at_ % stretch)
}

/** How many tokens of the half-open range it holds. */
export function countHeld(held: Held, from: number, end: number): number {
  return Math.max(0, position(held, end) - position(held, from))
}
