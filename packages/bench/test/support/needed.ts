import type { RequestCache } from '../../src/index.ts'

/** What `verify` has to look at, counted token by token. */
export function neededBytes(
  { shape, rank, place }: Pick<RequestCache, 'shape' | 'rank' | 'place'>,
  tokens: number,
  prefix: number,
): number {
  const [firstLayer = 0, endLayer = 0] = rank.stages.slice(rank.pp, rank.pp + 2)
  const isMine = (token: number) => {
    const { context, cp, cpSize } = rank
    if (cpSize === 1 || context === 'all') return true
    if (context === 'contiguous') throw new Error('no decode side here has it')
    return Math.floor(token / context.interleave) % cpSize === cp
  }
  let bytes = 0
  for (const { name, addressed, window = tokens, tensors } of shape.components) {
    if (!place.components[name]) continue
    for (const { layer, units, unitBytes, rows = 1, tokensPerRow = 1 } of tensors) {
      if (layer < firstLayer || layer >= endLayer) continue
      const row = Math.max(1, units / rank.tpSize) * unitBytes
      const mine = new Set<number>()
      for (let token = Math.max(prefix, tokens - window); token < tokens; token++) {
        if (isMine(token)) mine.add(Math.floor(token / tokensPerRow))
      }
      bytes += row * (addressed === 'request' ? rows : mine.size)
    }
  }
  return bytes
}
