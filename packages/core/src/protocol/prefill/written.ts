/**
 * What the host has written of a request: checked, marked, and what of it is still missing. Hosts name tokens and layers by
 * their numbers in the prompt and the model. Marked are positions: tokens and pages by their numbers among those that this
 * rank has of the prompt, so that a context-parallel rank may name whole chunks or only what it holds of them.
 */
import { pagesWith, writtenPages } from '../../plan/index.ts'
import type { CacheShape, ComponentShape } from '../../shape/index.ts'
import {
  cover,
  emptyCoverage,
  firstCovered,
  firstMissing,
  heldTokens,
  position,
  stageOf,
  tokenAt,
  type Held,
  type Range,
} from '../../share/index.ts'
import type { PageLists } from '../messages.ts'
import type { PiecePart, PrefillSelf, Sender, Written } from './state.ts'

export interface Given {
  readonly tokens: Range | undefined
  readonly pages: PageLists
  readonly state: PageLists
  readonly layers: Range | undefined
}

/** Marks it as written and answers the parts that are to be sent, or what is wrong; then nothing is marked. */
export function takeWrite(self: PrefillSelf, sender: Sender, given: Given): PiecePart[] | string {
  const layers = given.layers ?? [0, self.shape.layers]
  const [low, high] = layers
  if (low < 0 || low >= high || high > self.shape.layers) {
    return `layers must be a range within 0 to ${String(self.shape.layers)}, got [${layers.join(', ')}].`
  }
  const marks: (() => PiecePart | undefined)[] = []
  for (const [name, list] of Object.entries(given.pages)) {
    const mark = markPages(self, sender, { name, list, tokens: given.tokens, layers })
    if (typeof mark === 'string') return mark
    marks.push(mark)
  }
  for (const [name, list] of Object.entries(given.state)) {
    const mark = markSlots(self, sender, { name, list, layers })
    if (typeof mark === 'string') return mark
    marks.push(mark)
  }
  return marks.flatMap((mark) => mark() ?? [])
}

function markPages(
  self: PrefillSelf,
  sender: Sender,
  {
    name,
    list,
    tokens,
    layers,
  }: { name: string; list: Int32Array; tokens: Range | undefined; layers: Range },
): (() => PiecePart | undefined) | string {
  const component = componentOf(self.shape, name, 'tokens')
  const place = Object.hasOwn(self.place.components, name) ? self.place.components[name] : undefined
  if (!component || !place) return `there is no component '${name}' of pages on this rank.`
  if (!tokens) return `the tokens that the pages of '${name}' hold must be named.`
  const [from, end] = tokens
  if (from < 0 || from >= end || end > sender.tokens) {
    return `tokens must be a range within 0 to ${String(sender.tokens)}, got [${tokens.join(', ')}].`
  }
  const outside = list.find((page) => page < 0 || page >= place.pages)
  if (outside !== undefined) {
    return `page ${String(outside)} of '${name}' does not exist: there are ${String(place.pages)}.`
  }
  const { pageTokens = 1 } = place
  const held = heldTokens(self.rank, sender.tokens, pageTokens)
  const all = pagesWith(held, pageTokens, tokens)
  const first = all[1] - list.length
  if (first < all[0]) {
    return `${String(list.length)} pages of '${name}' were given; tokens ${String(from)} to ${String(end)} lie in ${String(all[1] - all[0])}.`
  }
  // Pages that hold only what nobody needs may be left out.
  const here: Range = [position(held, from), position(held, end)]
  const needed = position(held, firstNeeded(sender, name))
  const start = Math.max(here[0], needed)
  if (start < here[1] && first > Math.floor(start / pageTokens)) {
    return `${String(list.length)} pages of '${name}' were given; those from token ${String(tokenAt(held, start))} on are ${String(all[1] - Math.floor(start / pageTokens))}.`
  }
  const before = sender.written.get(name)
  const coverage = before?.coverage ?? emptyCoverage(stageOf(self.rank))
  const twice = firstCovered(coverage, { layers, tokens: [start, Math.max(start, here[1])] })
  if (twice) {
    return `tokens ${tokensName(held, twice.tokens)} of layers ${rangeName(twice.layers)} of '${name}' were already written.`
  }
  const pageStart = Math.max(needed, Math.floor(here[0] / pageTokens) * pageTokens)
  const lacking = missingOf(component, coverage, layers, [pageStart, here[0]])
  // A rank that holds none of the tokens begins no page with them.
  if (here[0] < here[1] && lacking) {
    return `token ${String(tokenAt(held, here[0]))} is in the middle of a page of '${name}' of which token ${String(tokenAt(held, lacking.tokens[0]))} of layer ${String(lacking.layers[0])} was not written yet: begin with that, or with a page.`
  }
  const source =
    before?.source ?? new Int32Array(pagesWith(held, pageTokens, [0, sender.tokens])[1]).fill(-1)
  const other = list.findIndex((page, i) => {
    const known = source[first + i] ?? -1
    return known >= 0 && known !== page
  })
  if (other >= 0) {
    return `page ${String(first + other)} of the prompt was written from page ${String(source[first + other])} of '${name}' before, now from ${String(list[other])}.`
  }
  return () => {
    source.set(list, first)
    sender.written.set(name, { coverage: cover(coverage, { layers, tokens: here }), source })
    const complete = writtenPages(held, pageTokens, sender.tokens, tokens)
    const low = Math.max(first, complete[0])
    if (low >= complete[1]) return undefined
    return { component: name, layers, first: low, source: source.slice(low, complete[1]) }
  }
}

/** What has been written of slots counts as one position. */
const slotTokens: Range = [0, 1]

function markSlots(
  self: PrefillSelf,
  sender: Sender,
  { name, list, layers }: { name: string; list: Int32Array; layers: Range },
): (() => PiecePart | undefined) | string {
  const component = componentOf(self.shape, name, 'request')
  const place = Object.hasOwn(self.place.components, name) ? self.place.components[name] : undefined
  if (!component || !place) return `there is no state component '${name}' on this rank.`
  const outside = list.find((slot) => slot < 0 || slot >= place.pages)
  if (outside !== undefined) {
    return `slot ${String(outside)} of '${name}' does not exist: there are ${String(place.pages)}.`
  }
  const before = sender.written.get(name)
  if (before && String(before.source) !== String(list)) {
    return `the state '${name}' was written from slots [${before.source.join(', ')}] before, now from [${list.join(', ')}].`
  }
  const wrong = slotsObjection(sender, name, list.length)
  if (wrong !== undefined) return wrong
  const coverage = before?.coverage ?? emptyCoverage(stageOf(self.rank))
  const twice = firstCovered(coverage, { layers, tokens: slotTokens })
  if (twice) return `layers ${rangeName(twice.layers)} of the state '${name}' were already written.`
  return () => {
    sender.written.set(name, {
      coverage: cover(coverage, { layers, tokens: slotTokens }),
      source: list,
    })
    return list.length === 0 ? undefined : { component: name, layers, source: list }
  }
}

/** Whether decode has as many slots for the state, once that is known. */
export function slotsObjection(sender: Sender, name: string, given: number): string | undefined {
  for (const { peer, pages } of sender.targets) {
    if (!pages || !peer.pairing.layers.has(name)) continue
    const wanted = pages[name]?.length ?? 0
    if (wanted !== given) {
      return `prefill has ${String(given)} slots of the state '${name}' for this request, and decode reserved ${String(wanted)}: a request has as many on both sides, or none.`
    }
  }
  return undefined
}

/** What decode needs and the host has not written, in words that follow a colon; undefined for nothing. */
export function missing(self: PrefillSelf, sender: Sender): string | undefined {
  for (const component of self.shape.components) {
    const { name, addressed } = component
    const targets = sender.targets.filter(({ peer }) => peer.pairing.layers.has(name))
    if (targets.length === 0) continue
    const layers = [...new Set(targets.flatMap(({ peer }) => peer.pairing.layers.get(name) ?? []))]
    const written = sender.written.get(name)
    const coverage = written?.coverage ?? emptyCoverage(stageOf(self.rank))
    const { pageTokens = 1 } = self.place.components[name] ?? {}
    const held = heldTokens(self.rank, sender.tokens, pageTokens)
    const tokens: Range =
      addressed === 'request'
        ? slotTokens
        : [position(held, firstNeeded(sender, name)), position(held, sender.tokens)]
    for (const layer of layers.sort((a, b) => a - b)) {
      const lack = firstMissing(coverage, { layers: [layer, layer + 1], tokens })
      if (!lack) continue
      return addressed === 'request'
        ? `the state '${name}' of layer ${String(layer)} was never written.`
        : `tokens ${tokensName(held, lack.tokens)} of layer ${String(layer)} of '${name}' were never written.`
    }
  }
  return undefined
}

/** The first token of a component that any decode rank needs; the length of the prompt for none. */
export function firstNeeded({ targets, tokens }: Sender, name: string): number {
  return Math.min(
    tokens,
    ...targets.flatMap(({ peer, prompt }) =>
      peer.pairing.layers.has(name) ? [peer.pairing.firstNeeded(name, prompt)] : [],
    ),
  )
}

function missingOf(
  { tensors }: ComponentShape,
  coverage: Written['coverage'],
  layers: Range,
  tokens: Range,
) {
  if (tokens[0] >= tokens[1]) return undefined
  const held = new Set(tensors.map(({ layer }) => layer))
  for (let layer = layers[0]; layer < layers[1]; layer++) {
    const lack = held.has(layer) && firstMissing(coverage, { layers: [layer, layer + 1], tokens })
    if (lack) return lack
  }
  return undefined
}

function componentOf(
  { components }: CacheShape,
  name: string,
  addressed: ComponentShape['addressed'],
): ComponentShape | undefined {
  return components.find((one) => one.name === name && one.addressed === addressed)
}

/** Positions, as the tokens of the prompt from the first to the last. */
function tokensName(held: Held, [first, end]: Range): string {
  return rangeName([tokenAt(held, first), tokenAt(held, end - 1) + 1])
}

/** Half-open, as the host gives it. */
function rangeName([first, end]: Range): string {
  return `${String(first)} to ${String(end)}`
}
