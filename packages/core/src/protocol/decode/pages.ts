/** Whether the pages that the host gives can be written to: a sentence without its subject, or undefined. */
import { pageCount, type Layout } from '../../layout/index.ts'

export function pagesObjection(
  layout: Layout,
  pages: Int32Array | undefined,
  tokens: number,
): string | undefined {
  if (!pages) return undefined
  const needed = Math.ceil(tokens / layout.pageTokens)
  if (pages.length !== needed)
    return `${String(pages.length)} pages were given; ${String(needed)} are needed.`
  return boundsObjection(pages, layout.pages.kv ?? 0)
}

export function stateObjection(
  layout: Layout,
  state: Readonly<Record<string, Int32Array>>,
): string | undefined {
  for (const [component, pages] of Object.entries(state)) {
    const total = pageCount(layout, component)
    if (component === 'kv' || total === 0) return `there is no state component '${component}'.`
    const wrong = boundsObjection(pages, total)
    if (wrong) return `of component '${component}' ${wrong}`
  }
  return undefined
}

function boundsObjection(pages: Int32Array, total: number): string | undefined {
  if (pages.some((page) => page < 0 || page >= total))
    return `a page index is outside of the pool's ${String(total)} pages.`
  if (new Set(pages).size !== pages.length) return 'a page is named twice.'
  return undefined
}
