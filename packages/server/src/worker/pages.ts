import type { LlamaModel } from '@kvx/llama'
import type { CacheLease } from './cache-pools.ts'
import type { Events } from './events.ts'

/**
 * Gives pages back once nothing of the transfer can touch them any more, which is at once when it has
 * succeeded. Until then they are nobody's: after a failure bytes may still be under way.
 */
export function returnPages(lease: CacheLease, settled: Promise<void>, events: Events): void {
  lease.quarantine(settled)
  void settled.then(() => {
    events('pages.released', { pages: lease.count })
  })
}

/** Pages and slots of a lease apart, as a manager takes them. */
export function byAddress({ cache }: LlamaModel, pages: CacheLease['pages']) {
  const slots = cache.shape.components.filter(({ addressed }) => addressed === 'request')
  const isSlot = (name: string) => slots.some((component) => component.name === name)
  const entries = Object.entries(pages)
  return {
    pages: Object.fromEntries(entries.filter(([name]) => !isSlot(name))),
    state: Object.fromEntries(entries.filter(([name]) => isSlot(name))),
  }
}

/**
 * How many pages a prompt takes at prefill: of each component those from the page on in which a token lies.
 *
 * @param firstToken of a component
 */
export function pagesToFill(
  { cache }: LlamaModel,
  tokens: number,
  firstToken: (component: string) => number,
): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const [name, { pageTokens }] of Object.entries(cache.place.components)) {
    counts[name] =
      pageTokens === undefined
        ? 1
        : Math.ceil(tokens / pageTokens) - Math.floor(firstToken(name) / pageTokens)
  }
  return counts
}

/** Of the last pages of a prompt, by component, those that hold any of the tokens. */
export function pagesOfTokens(
  { cache }: LlamaModel,
  prompt: number,
  pages: CacheLease['pages'],
  [from, end]: readonly [number, number],
): Record<string, Int32Array> {
  const held: Record<string, Int32Array> = {}
  for (const [name, { pageTokens }] of Object.entries(cache.place.components)) {
    const list = pages[name]
    if (!list || pageTokens === undefined) continue
    const first = Math.ceil(prompt / pageTokens) - list.length
    const low = Math.max(0, Math.floor(from / pageTokens) - first)
    const high = Math.max(0, Math.ceil(end / pageTokens) - first)
    if (low < high) held[name] = list.subarray(low, high)
  }
  return held
}
