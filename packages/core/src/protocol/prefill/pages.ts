/** Whether the pages that decode names can be written to: a sentence, or undefined. */
import type { Prompt } from '../../plan/index.ts'
import { numbersObjection } from '../numbers.ts'
import type { CacheShape, ComponentShape } from '../../shape/index.ts'
import type { PageLists } from '../messages.ts'
import { peerName } from './send.ts'
import type { Peer } from './state.ts'

export function pagesObjection(
  shape: CacheShape,
  peer: Peer,
  prompt: Prompt,
  pages: PageLists,
): string | undefined {
  for (const { name, addressed } of shape.components) {
    const list = Object.hasOwn(pages, name) ? pages[name] : undefined
    if (peer.pairing.layers.has(name)) {
      if (!list)
        return `The reserve names no ${addressed === 'tokens' ? 'pages' : 'slots'} of '${name}'.`
      const [first, end] = peer.pairing.pages(name, prompt).destination
      if (addressed === 'tokens' && list.length !== end - first) {
        return `The reserve names ${String(list.length)} pages of '${name}'; ${String(end - first)} are needed.`
      }
    }
    const wrong = list && boundsObjection(peer, { name, addressed }, list)
    if (wrong !== undefined) return wrong
  }
  const unknown = Object.keys(pages).find((name) => !shape.components.some((c) => c.name === name))
  return unknown === undefined ? undefined : `There is no component '${unknown}'.`
}

/** Two copies of one destination would overwrite each other. */
function boundsObjection(
  peer: Peer,
  { name, addressed }: Pick<ComponentShape, 'name' | 'addressed'>,
  list: Int32Array,
): string | undefined {
  const count = Object.hasOwn(peer.pages, name) ? (peer.pages[name] ?? 0) : 0
  const wrong = numbersObjection({ name, addressed }, list, count)
  return wrong && `In the reserve of ${peerName(peer)} ${wrong}.`
}
