/**
 * Instances of several ranks, and what each byte of their caches has to be: found from the coordinates of a byte alone, value
 * by value, with none of the functions that are tested.
 */
import type { CacheShape, ComponentShape, TensorShape } from '../../src/shape/index.ts'
import type { ComponentPlace, PageOrder, Place } from '../../src/place/index.ts'
import type { Rank } from '../../src/share/index.ts'
import { plainMemory } from './loopback.ts'

type Memory = ReturnType<typeof plainMemory>

/** What lies in a cache where nothing was written. */
export const untouched = 0xee

/** How one side keeps its caches. */
export interface Keeping {
  readonly pageTokens: number
  readonly order?: (part: string) => PageOrder
  /** Bytes between the pages of a tensor. */
  readonly padding?: number
}

const pages = 40
const slots = 6

/** Half-open. */
type Range = readonly [number, number]

function layersOf({ pp, stages }: Rank): Range {
  return [stages[pp] ?? 0, stages[pp + 1] ?? 0]
}

export function holdsLayer(rank: Rank, layer: number): boolean {
  const [first, end] = layersOf(rank)
  return layer >= first && layer < end
}

/** Units that are divided evenly, or of which several ranks have the same one. */
export function unitsHeld({ tp, tpSize }: Rank, units: number): number[] {
  const all = Array.from({ length: units }, (_, unit) => unit)
  return tpSize <= units
    ? all.filter((unit) => Math.floor((unit * tpSize) / units) === tp)
    : all.filter((unit) => Math.floor((tp * units) / tpSize) === unit)
}

/** Tokens of a prompt that a rank has, in the order in which they lie in its pages. */
export function tokensHeld(rank: Rank, tokens: number, pageTokens: number): number[] {
  const { cp, cpSize, context } = rank
  const all = Array.from({ length: tokens }, (_, token) => token)
  if (cpSize === 1 || context === 'all') return all
  if (context !== 'contiguous') {
    return all.filter((token) => Math.floor(token / context.interleave) % cpSize === cp)
  }
  // The pages are dealt out in runs; the first ranks have one more.
  const count = Math.ceil(tokens / pageTokens)
  const owner = Array.from({ length: cpSize }, (_, rank) =>
    Array<number>(Math.floor(count / cpSize) + (rank < count % cpSize ? 1 : 0)).fill(rank),
  ).flat()
  return all.filter((token) => owner[Math.floor(token / pageTokens)] === cp)
}

export function isHeld(rank: Rank, { tensors }: ComponentShape): boolean {
  return tensors.some(({ layer }) => holdsLayer(rank, layer))
}

const rowsOf = ({ tokensPerRow = 1, rows = 1 }: TensorShape, pageTokens: number | undefined) =>
  pageTokens === undefined ? rows : pageTokens / tokensPerRow

/** Where a rank keeps what it holds, one tensor after the other. */
export function keep(
  shape: CacheShape,
  rank: Rank,
  { pageTokens, order = () => 'NHD', padding = 0 }: Keeping,
): { place: Place; memory: Memory } {
  const components: Record<string, ComponentPlace> = {}
  const tensors: Place['tensors'][number][] = []
  let end = 0
  for (const component of shape.components) {
    if (!isHeld(rank, component)) continue
    const isPaged = component.addressed === 'tokens'
    components[component.name] = isPaged ? { pageTokens, pages } : { pages: slots }
    for (const tensor of component.tensors) {
      if (!holdsLayer(rank, tensor.layer)) continue
      const rows = rowsOf(tensor, isPaged ? pageTokens : undefined)
      const bytes = rows * unitsHeld(rank, tensor.units).length * tensor.unitBytes
      const pageBytes = bytes + padding
      tensors.push({
        ...{ component: component.name, layer: tensor.layer, part: tensor.part },
        ...{ region: 0, base: end, pageBytes, order: order(tensor.part) },
      })
      end += pageBytes * (isPaged ? pages : slots)
    }
  }
  const memory = plainMemory(end)
  memory.view(0, end).fill(untouched)
  return { place: { components, tensors }, memory }
}

/** A byte of the cache of the whole model: it is the same on whichever rank it lies, and differs from its neighbours. */
function valueAt(
  component: string,
  { layer, part }: TensorShape,
  { row, unit, byte }: { row: number; unit: number; byte: number },
): number {
  const name = Buffer.from(component + part).reduce((sum, code) => sum * 7 + code, 0)
  // Never that of what was not written.
  return (name + layer * 67 + row * 29 + unit * 151 + byte * 3) % untouched
}

/** Every byte of some rows of a request that a rank holds: what it has to be, and where it lies. */
function* bytesOf(
  shape: CacheShape,
  rank: Rank,
  { place }: { place: Place },
  lists: Readonly<Record<string, readonly number[]>>,
  request: { tokens: number; from: (component: ComponentShape) => number },
): Generator<{ at: number; value: number; what: string }> {
  for (const component of shape.components) {
    if (!isHeld(rank, component)) continue
    const { pageTokens } = place.components[component.name]!
    const list = lists[component.name]!
    for (const tensor of component.tensors) {
      if (!holdsLayer(rank, tensor.layer)) continue
      const { base, pageBytes, order } = place.tensors.find(
        (one) =>
          one.component === component.name &&
          one.layer === tensor.layer &&
          one.part === tensor.part,
      )!
      const rows = rowsOf(tensor, pageTokens)
      const { unitBytes, elementBytes = unitBytes, tokensPerRow = 1 } = tensor
      const held = unitsHeld(rank, tensor.units)
      /** Row of the model, page of the list, and row of the page. */
      const places: [row: number, page: number, at: number][] =
        pageTokens === undefined
          ? list.flatMap((_, slot) =>
              Array.from({ length: rows }, (_, row): [number, number, number] => [
                slot * rows + row,
                slot,
                row,
              ]),
            )
          : placesOf(rank, request.tokens, {
              pageTokens,
              tokensPerRow,
              from: request.from(component),
            })
      const missing = pageTokens === undefined ? 0 : skipped(rank, request, component, pageTokens)
      for (const [row, page, at] of places) {
        const number = list[page - missing]
        if (number === undefined) throw new Error(`page ${String(page)} is not named`)
        for (const [h, unit] of held.entries()) {
          for (let byte = 0; byte < unitBytes; byte++) {
            const element = Math.floor(byte / elementBytes)
            const within =
              order === 'NHD'
                ? (at * held.length + h) * unitBytes + byte
                : order === 'HND'
                  ? (h * rows + at) * unitBytes + byte
                  : h * rows * unitBytes +
                    (element * rows + at) * elementBytes +
                    (byte % elementBytes)
            yield {
              at: base + number * pageBytes + within,
              value: valueAt(component.name, tensor, { row, unit, byte }),
              what: `${component.name} layer ${String(tensor.layer)} ${tensor.part}, row ${String(row)}, unit ${String(unit)}, byte ${String(byte)}`,
            }
          }
        }
      }
    }
  }
}

function placesOf(
  rank: Rank,
  tokens: number,
  { pageTokens, tokensPerRow, from }: { pageTokens: number; tokensPerRow: number; from: number },
): [number, number, number][] {
  const found = new Map<number, [number, number, number]>()
  for (const [position, token] of tokensHeld(rank, tokens, pageTokens).entries()) {
    if (token < from) continue
    const row = Math.floor(token / tokensPerRow)
    const at = Math.floor((position % pageTokens) / tokensPerRow)
    found.set(row, [row, Math.floor(position / pageTokens), at])
  }
  return [...found.values()]
}

/** Pages before the first one that is named. */
function skipped(
  rank: Rank,
  { tokens, from }: { tokens: number; from: (component: ComponentShape) => number },
  component: ComponentShape,
  pageTokens: number,
): number {
  const first = tokensHeld(rank, tokens, pageTokens).findIndex((token) => token >= from(component))
  return Math.floor(Math.max(0, first) / pageTokens)
}

/** How many pages a rank has of the tokens from `from` to `end`. */
export function pageCount(
  rank: Rank,
  tokens: number,
  pageTokens: number,
  [from, end]: Range,
): number {
  const found = new Set<number>()
  for (const [position, token] of tokensHeld(rank, tokens, pageTokens).entries()) {
    if (token >= from && token < end) found.add(Math.floor(position / pageTokens))
  }
  return found.size
}

/** Writes the whole prompt into the cache of a prefill rank. */
export function fillCache(
  shape: CacheShape,
  rank: Rank,
  kept: { place: Place; memory: Memory },
  lists: Readonly<Record<string, readonly number[]>>,
  tokens: number,
): void {
  for (const { at, value } of bytesOf(shape, rank, kept, lists, { tokens, from: () => 0 })) {
    kept.memory.view(at, 1)[0] = value
  }
}

/** The first token of a component that decode needs. */
export const firstOf =
  (tokens: number, prefix: number) =>
  ({ window = tokens }: ComponentShape): number =>
    Math.max(prefix, tokens - window, 0)

/** What is wrong with the cache of a decode rank, a few of each; empty for nothing. */
export function wrongBytes(
  shape: CacheShape,
  rank: Rank,
  kept: { place: Place; memory: Memory },
  lists: Readonly<Record<string, readonly number[]>>,
  request: { tokens: number; prefix: number },
): string[] {
  const { tokens, prefix } = request
  const bytes = kept.memory.view(0, kept.memory.bytes)
  const wrong: string[] = []
  const from = firstOf(tokens, prefix)
  for (const { at, value, what } of bytesOf(shape, rank, kept, lists, { tokens, from })) {
    if (bytes[at] === value || wrong.length > 3) continue
    wrong.push(`${what}: ${String(bytes[at])} instead of ${String(value)}`)
  }
  // Nothing but the named pages may have changed, and nothing between pages.
  const mayChange = new Uint8Array(bytes.length)
  for (const { component, layer, part, base, pageBytes } of kept.place.tensors) {
    const shaped = shape.components
      .find(({ name }) => name === component)!
      .tensors.find((one) => one.layer === layer && one.part === part)!
    const rows = rowsOf(shaped, kept.place.components[component]!.pageTokens)
    const size = rows * unitsHeld(rank, shaped.units).length * shaped.unitBytes
    for (const page of lists[component]!) {
      mayChange.fill(1, base + page * pageBytes, base + page * pageBytes + size)
    }
  }
  const stray = bytes.findIndex((byte, at) => byte !== untouched && mayChange[at] === 0)
  if (stray >= 0)
    wrong.push(`byte ${String(stray)} lies in no page of the request, and has changed`)
  return wrong
}
