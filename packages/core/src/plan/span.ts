/** Which tokens of a prompt a request still needs, and in which pages of either side they lie. */
import type { ComponentPlace, Place } from '../place/place.ts'
import type { Rank } from '../share/rank.ts'
import { heldTokens, position, tokenAt, type Held } from '../share/tokens.ts'
import type { ComponentShape, CacheShape } from '../shape/shape.ts'
import { lcm, spanOf } from './pages.ts'
import type { Range } from '../share/holdings.ts'

/** The tokens of a prompt that matter for one request. */
export interface Prompt {
  /** All of them. */
  readonly tokens: number
  /** How many of them decode has already: whole pages there, of every component. */
  readonly prefix: number
}

/**
 * The tokens of a component that a decode rank needs, of those that it holds: the ones after its prefix. Of sliding-window
 * attention only the last, and with them all of the page in which the window begins, so that no page is half written.
 * Empty (both numbers are equal) after a full hit.
 */
export function neededTokens(
  { tokens, prefix }: Prompt,
  window: number | undefined,
  held: Held,
  pageTokens: number,
): Range {
  const first = Math.max(0, tokens - (window ?? tokens))
  const at = position(held, first)
  if (at === position(held, tokens)) return [tokens, tokens]
  const start = Math.min(first, tokenAt(held, Math.floor(at / pageTokens) * pageTokens))
  return [Math.min(tokens, Math.max(prefix, start)), tokens]
}

/**
 * Pages in which a rank holds any of the tokens, by their numbers among those that it has of the prompt: from 0, whichever
 * tokens the first one holds.
 */
export function pagesWith(held: Held, pageTokens: number, tokens: Range): Range {
  const [first, end] = [position(held, tokens[0]), position(held, tokens[1])]
  return first < end ? [Math.floor(first / pageTokens), Math.ceil(end / pageTokens)] : [0, 0]
}

/**
 * Pages that a write of the half-open range of tokens sends: those that it completes, by their numbers among the pages that
 * the rank has of the prompt. A page of which later tokens are still to come is sent by the write that brings the last.
 */
export function writtenPages(held: Held, pageTokens: number, prompt: number, range: Range): Range {
  const [first, end] = [position(held, range[0]), position(held, range[1])]
  if (first === end) return [0, 0]
  const whole = end === position(held, prompt) ? Math.ceil : Math.floor
  return [Math.floor(first / pageTokens), whole(end / pageTokens)]
}

/**
 * Pages that a decode rank provides of a component that is addressed by tokens, by their numbers among those that it has of
 * the prompt.
 */
export function providedPages(
  { window }: ComponentShape,
  rank: Rank,
  { pageTokens = 1 }: ComponentPlace,
  prompt: Prompt,
): Range {
  const held = heldTokens(rank, prompt.tokens, pageTokens)
  return pagesWith(held, pageTokens, neededTokens(prompt, window, held, pageTokens))
}

/** Tokens of which a decode rank's prefix is a multiple, unless it is the whole prompt: whole pages of every component. */
export function prefixBlock(
  { components }: CacheShape,
  rank: Rank,
  place: Pick<Place, 'components'>,
): number {
  let block = 1
  for (const { name } of components) {
    const pageTokens = Object.hasOwn(place.components, name)
      ? place.components[name]?.pageTokens
      : undefined
    if (pageTokens === undefined) continue
    block = lcm(block, spanOf({ pageTokens, held: heldTokens(rank, 0, pageTokens) }))
  }
  return block
}
