/** The memory of a rank: where it keeps what, and what each of its bytes stands for. */
import type { CacheShape, ComponentShape, Place, Rank, TensorPlace, TensorShape } from '@kvx/core'
import {
  packPlace,
  packShape,
  prefixBlock,
  type PackedPlace,
  type PackedShape,
} from '@kvx/core/bytes'
import type { Keeping } from './model.ts'
import { pageCount, tokensOf, unitsOf, wholePrefix } from './tokens.ts'

/** A component as a rank holds it. */
export interface HeldComponent {
  /** Among all of the shape. */
  readonly number: number
  readonly component: ComponentShape
  /** Tokens of a page; undefined for slots of requests. */
  readonly pageTokens: number | undefined
  readonly pages: number
  /** Bytes of each page: where they lie. */
  readonly bytesOf: readonly Int32Array[]
}

export interface RankMemory {
  readonly rank: Rank
  /** As its host states it: in an order of its own. */
  readonly shape: CacheShape
  readonly place: Place
  readonly packed: { readonly shape: PackedShape; readonly place: PackedPlace }
  /** As a manager computes it. */
  readonly prefixBlock: number
  /** All regions, one behind the other. */
  readonly bytes: number
  readonly regions: readonly number[]
  /** Components of which the rank holds tensors. */
  readonly held: readonly HeldComponent[]
  readonly heldOf: ReadonlyMap<string, HeldComponent>
  /** Of each byte: its component by number, −1 for a byte of no page. */
  readonly componentAt: Int8Array
  readonly pageAt: Int32Array
  /** Row within the page, or the slot. */
  readonly rowAt: Int32Array
  readonly rowTokensAt: Int32Array
  /** Its layer, part, unit and byte of the unit. */
  readonly cellAt: Int32Array
  /** Every cell of which the rank holds bytes: tokens of a row of it, 0 for a slot. */
  readonly cells: ReadonlyMap<number, number>
}

export function layMemory(cache: CacheShape, rank: Rank, keeping: Keeping): RankMemory {
  const place = drawPlace(cache, rank, keeping)
  const shape = keeping.reversed ? reversed(cache) : cache
  const sizes = regionSizes(place)
  const regions = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, size) => sum + size, 0))
  const bytes = sizes.reduce((sum, size) => sum + size, 0)
  const at = {
    componentAt: new Int8Array(bytes).fill(-1),
    pageAt: new Int32Array(bytes),
    rowAt: new Int32Array(bytes),
    rowTokensAt: new Int32Array(bytes),
    cellAt: new Int32Array(bytes),
  }
  const held: HeldComponent[] = []
  const cells = new Map<number, number>()
  for (const [number, component] of cache.components.entries()) {
    const pages = place.components[component.name]
    if (!pages) continue
    const lists = Array.from({ length: pages.pages }, (): number[] => [])
    for (const tensor of component.tensors) {
      const where = place.tensors.find(
        (one) =>
          one.component === component.name &&
          one.layer === tensor.layer &&
          one.part === tensor.part,
      )
      if (!where) continue
      for (const each of bytesOfPage(component, tensor, rank, pages.pageTokens)) {
        const offset = offsetOf(where, tensor, each)
        const cell = cellOf(number, component.tensors, tensor, each.unit, each.byte)
        const rowTokens = tensor.tokensPerRow ?? 1
        cells.set(cell, pages.pageTokens === undefined ? 0 : rowTokens)
        for (let page = 0; page < pages.pages; page++) {
          const address = regions[where.region]! + where.base + page * where.pageBytes + offset
          at.componentAt[address] = number
          at.pageAt[address] = page
          at.rowAt[address] = each.row
          at.rowTokensAt[address] = rowTokens
          at.cellAt[address] = cell
          lists[page]!.push(address)
        }
      }
    }
    held.push({
      number,
      component,
      pageTokens: pages.pageTokens,
      pages: pages.pages,
      bytesOf: lists.map((list) => Int32Array.from(list)),
    })
  }
  return {
    rank,
    shape,
    place,
    packed: { shape: packShape(shape), place: packPlace(place) },
    prefixBlock: prefixBlock(shape, rank, place),
    bytes,
    regions,
    held,
    heldOf: new Map(held.map((each) => [each.component.name, each])),
    ...at,
    cells,
  }
}

function reversed({ components, ...rest }: CacheShape): CacheShape {
  const list = components.map(({ tensors, ...component }) => ({
    ...component,
    tensors: tensors.toReversed(),
  }))
  return { ...rest, components: list.reverse() }
}

interface ByteOfPage {
  readonly row: number
  readonly rows: number
  readonly unit: number
  /** Among the units that the rank holds, of so many. */
  readonly place: number
  readonly units: number
  readonly byte: number
}

function* bytesOfPage(
  { addressed }: ComponentShape,
  tensor: TensorShape,
  rank: Rank,
  pageTokens = 1,
): Generator<ByteOfPage> {
  const { tokensPerRow = 1 } = tensor
  const rows = addressed === 'request' ? (tensor.rows ?? 1) : pageTokens / tokensPerRow
  const units = unitsOf(rank, tensor)
  for (let row = 0; row < rows; row++) {
    for (const [place, unit] of units.entries()) {
      for (let byte = 0; byte < tensor.unitBytes; byte++)
        yield { row, rows, unit, place, units: units.length, byte }
    }
  }
}

function offsetOf(
  { order }: TensorPlace,
  { unitBytes }: TensorShape,
  { row, rows, place, units, byte }: ByteOfPage,
): number {
  switch (order) {
    case 'NHD':
      return (row * units + place) * unitBytes + byte
    case 'HND':
      return (place * rows + row) * unitBytes + byte
    case 'HDN':
      // Elements are of one byte.
      return (place * unitBytes + byte) * rows + row
  }
}

/** What distinguishes a byte from all others of a row: no two have the same number. */
function cellOf(
  component: number,
  tensors: readonly TensorShape[],
  tensor: TensorShape,
  unit: number,
  byte: number,
): number {
  const parts = [...new Set(tensors.map(({ part }) => part))]
  return (((component * 8 + tensor.layer) * 4 + parts.indexOf(tensor.part)) * 16 + unit) * 4 + byte
}

/** The layer that stands in a cell. */
export function layerOf(cell: number): number {
  return Math.floor(cell / (4 * 16 * 4)) % 8
}

function drawPlace(shape: CacheShape, rank: Rank, keeping: Keeping): Place {
  const { pageTokens, pages, orders, gap, padding, alternates, regions } = keeping
  const components: Record<string, { pageTokens?: number; pages: number }> = {}
  const tensors: TensorPlace[] = []
  const ends = Array<number>(regions).fill(0)
  let next = 0
  for (const component of shape.components) {
    const { name } = component
    const held = component.tensors.filter((tensor) => unitsOf(rank, tensor).length > 0)
    if (held.length === 0) continue
    const size = pageTokens[name]
    const count = pages[name]!
    components[name] = { pages: count, ...(size !== undefined && { pageTokens: size }) }
    const sizes = held.map(
      (tensor) => [...bytesOfPage(component, tensor, rank, size)].length + padding,
    )
    const all = sizes.reduce((sum, bytes) => sum + bytes, 0)
    for (const [i, { layer, part }] of held.entries()) {
      const region = alternates ? 0 : next++ % regions
      const before = alternates ? sizes.slice(0, i).reduce((sum, bytes) => sum + bytes, 0) : 0
      const pageBytes = alternates ? all : sizes[i]!
      const base = ends[region]! + gap + before
      tensors.push({ component: name, layer, part, region, base, pageBytes, order: orders[name]! })
      if (!alternates) ends[region] = base + pageBytes * count
    }
    if (alternates) ends[0] = ends[0]! + gap + all * count
  }
  return { components, tensors }
}

/** Up to the end of the last page of each. */
function regionSizes({ components, tensors }: Place): number[] {
  const sizes: number[] = []
  for (const { component, region, base, pageBytes } of tensors) {
    const end = base + pageBytes * components[component]!.pages
    for (let i = 0; i <= region; i++) sizes[i] ??= 0
    sizes[region] = Math.max(sizes[region]!, end)
  }
  return sizes
}

/** Tokens of a prompt that lie in the pages of a component, in their order. */
export function heldTokens(
  { rank }: RankMemory,
  { pageTokens }: HeldComponent,
  tokens: number,
): number[] {
  return pageTokens === undefined ? [] : tokensOf(rank, tokens, pageTokens)
}

export function pagesOfPrompt(memory: RankMemory, held: HeldComponent, tokens: number): number {
  return pageCount(heldTokens(memory, held, tokens), held.pageTokens ?? 1)
}

/** The prefix of which decode has whole pages of everything that it holds. */
export function prefixOf(
  { rank, held }: RankMemory,
  prompt: { readonly tokens: number; readonly prefix: number },
): number {
  return wholePrefix(
    rank,
    held.flatMap(({ pageTokens }) => pageTokens ?? []),
    prompt,
  )
}
