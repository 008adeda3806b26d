/**
 * Which tokens and which units a rank holds, said one by one from the meaning of its coordinates: what the world judges by,
 * and shares with nobody.
 */
import type { ComponentShape, Rank, TensorShape } from '@kvx/core'

/** Tokens of a prompt that a rank holds, in the order in which its pages hold them. */
export function tokensOf(
  { cp, cpSize, context }: Rank,
  tokens: number,
  pageTokens: number,
): number[] {
  const all = Array.from({ length: tokens }, (_, token) => token)
  if (cpSize === 1 || context === 'all') return all
  if (typeof context === 'object')
    return all.filter((token) => Math.floor(token / context.interleave) % cpSize === cp)
  // Page after page is dealt out, so that the first ranks have one more where they do not come out even.
  const counts = Array<number>(cpSize).fill(0)
  for (let page = 0; page * pageTokens < tokens; page++) counts[page % cpSize]!++
  const before = counts.slice(0, cp).reduce((sum, count) => sum + count, 0)
  const [first, end] = [before * pageTokens, (before + counts[cp]!) * pageTokens]
  return all.slice(first, end)
}

/** Units of a tensor that a rank holds; none of another stage. */
export function unitsOf(rank: Rank, { layer, units }: TensorShape): number[] {
  const { tp, tpSize, pp, stages } = rank
  if (layer < stages[pp]! || layer >= stages[pp + 1]!) return []
  const held: number[] = []
  for (let unit = 0; unit < units; unit++) {
    // As if every unit were cut into as many parts as there are ranks: whose parts are of this unit?
    const [first, end] = [(tp * units) / tpSize, ((tp + 1) * units) / tpSize]
    if (first < unit + 1 && end > unit) held.push(unit)
  }
  return held
}

/** Pages of a component that a rank needs: by their numbers among those of the prompt, all up to the last. */
export function neededFrom(
  { window = Infinity }: ComponentShape,
  held: readonly number[],
  pageTokens: number,
  { tokens, prefix }: { tokens: number; prefix: number },
): number {
  const first = held.findIndex((token) => token >= prefix && token >= tokens - window)
  return first < 0 ? pageCount(held, pageTokens) : Math.floor(first / pageTokens)
}

export function pageCount(held: readonly number[], pageTokens: number): number {
  return Math.ceil(held.length / pageTokens)
}

/**
 * The longest prefix up to `prefix` of which a rank can have whole pages, whichever tokens follow: where the ranks of its
 * instance have been dealt equally many tokens, and these are whole pages of all components.
 */
export function wholePrefix(
  { cpSize, context }: Rank,
  pageTokens: readonly number[],
  { tokens, prefix }: { tokens: number; prefix: number },
): number {
  if (prefix === tokens) return tokens
  const isDealt = cpSize > 1 && typeof context === 'object'
  const round = isDealt ? context.interleave * cpSize : 1
  const isWhole = (token: number) =>
    token % round === 0 &&
    pageTokens.every((size) => (isDealt ? token / cpSize : token) % size === 0)
  let whole = prefix
  while (!isWhole(whole)) whole--
  return whole
}
