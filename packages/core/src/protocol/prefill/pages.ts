/** Whether the pages that decode names can be written to: a sentence, or undefined. */
import { pageCount } from '../../layout/index.ts'
import { unpackPages } from '../messages.ts'
import { peerName } from './send.ts'
import type { Peer } from './state.ts'

export function pagesObjection(
  peer: Peer,
  tokens: number,
  pageTokens: number,
  pages: Int32Array,
): string | undefined {
  const needed = Math.ceil(tokens / pageTokens)
  if (pages.length !== needed)
    return `The reserve names ${String(pages.length)} pages; ${String(needed)} are needed.`
  return boundsObjection(peer, 'kv', pages)
}

export function stateObjection(
  peer: Peer,
  state: Record<string, Uint8Array> | undefined,
): string | undefined {
  for (const [component, packed] of Object.entries(state ?? {})) {
    if (component === 'kv') return "'kv' is no state component."
    const wrong = boundsObjection(peer, component, unpackPages(packed))
    if (wrong) return wrong
  }
  return undefined
}

/** Two copies of one destination would overwrite each other. */
function boundsObjection(peer: Peer, component: string, pages: Int32Array): string | undefined {
  const count = pageCount(peer.layout, component)
  if (pages.some((page) => page < 0 || page >= count)) {
    return `A page index of component ${component} is outside of the ${String(count)} pages that ${peerName(peer)} has.`
  }
  if (new Set(pages).size !== pages.length)
    return `A page of component ${component} is named twice.`
  return undefined
}
