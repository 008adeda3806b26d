/** Whether the pages that the host gives can be written to: a sentence without its subject, or undefined. */
import { providedPages, type Prompt } from '../../plan/index.ts'
import { numbersObjection } from '../numbers.ts'
import type { PageLists } from '../messages.ts'
import type { DecodeSelf } from './state.ts'

/** With no slot of each component that is addressed by request and not named: the request has no state there. */
export function withState({ shape, place }: DecodeSelf, pages: PageLists): PageLists {
  const names = shape.components.flatMap(({ name, addressed }) =>
    addressed === 'request' && Object.hasOwn(place.components, name) ? [name] : [],
  )
  return { ...Object.fromEntries(names.map((name) => [name, new Int32Array()])), ...pages }
}

export function pagesObjection(
  { shape, rank, place }: DecodeSelf,
  prompt: Prompt,
  pages: PageLists | undefined,
): string | undefined {
  if (!pages) return undefined
  for (const component of shape.components) {
    const { name, addressed } = component
    const own = Object.hasOwn(place.components, name) ? place.components[name] : undefined
    const list = Object.hasOwn(pages, name) ? pages[name] : undefined
    if (!own) continue
    if (!list) return `pages of '${name}' are missing.`
    if (addressed === 'tokens') {
      const [first, end] = providedPages(component, rank, own, prompt)
      if (list.length !== end - first) {
        return `${String(list.length)} pages of '${name}' were given; ${String(end - first)} are needed.`
      }
    }
    const wrong = numbersObjection(component, list, own.pages)
    if (wrong !== undefined) return `${wrong}.`
  }
  const unknown = Object.keys(pages).find((name) => !Object.hasOwn(place.components, name))
  return unknown === undefined ? undefined : `there is no component '${unknown}' on this rank.`
}
