/**
 * Where the rows of one request lie at one rank. It says so without `plan/`, whose results are checked with it.
 */
import {
  countHeld,
  heldTokens,
  heldUnits,
  pageRows,
  position,
  tensorName,
  type CacheShape,
  type ComponentPlace,
  type ComponentShape,
  type Place,
  type Range,
  type Rank,
  type TensorPlace,
  type TensorShape,
} from '@kvx/core/bytes'

/** What one rank holds of one request. */
export interface RequestCache {
  readonly shape: CacheShape
  readonly rank: Rank
  readonly place: Place
  /** The bytes of each region. */
  readonly memory: readonly Uint8Array[]
  /** By component, its pages in the order of the prompt, or its slots; -1 for a page that the rank does without. */
  readonly pages: Readonly<Record<string, ArrayLike<number>>>
}

/** Rows of a request: their numbers in the whole cache, and where each of them lies. */
interface Rows {
  readonly number: Int32Array
  readonly page: Int32Array
  readonly inPage: Int32Array
}

/** A tensor that the rank holds, with its rows of the request. */
export interface HeldTensor {
  readonly component: ComponentShape
  readonly tensor: TensorShape
  readonly units: Range
  readonly place: TensorPlace
  readonly rows: Rows
  /** Bytes from one row, unit and element of a page to the next. */
  readonly stride: { readonly row: number; readonly unit: number; readonly element: number }
}

/**
 * @param wanted which tokens of a component: a half-open range
 * @param layers half-open
 */
export function heldTensors(
  { shape, rank, place, pages }: RequestCache,
  tokens: number,
  { wanted, layers }: { wanted: (component: ComponentShape) => Range; layers: Range },
): HeldTensor[] {
  const places = new Map(place.tensors.map((one) => [tensorName(one.component, one), one]))
  return shape.components.flatMap((component): HeldTensor[] => {
    const own = place.components[component.name]
    if (!own) return []
    const list = pages[component.name] ?? []
    const known = new Map<number, Rows>()
    const rowsOf = (tensor: TensorShape): Rows => {
      if (component.addressed === 'request') return slotRows(tensor, list)
      const { tokensPerRow = 1 } = tensor
      const rows =
        known.get(tokensPerRow) ??
        tokenRows({ rank, own, tokens, tokensPerRow, pages: list, wanted: wanted(component) })
      known.set(tokensPerRow, rows)
      return rows
    }
    return component.tensors.flatMap((tensor): HeldTensor[] => {
      const units = heldUnits(rank, tensor)
      const at = places.get(tensorName(component.name, tensor))
      if (!units || !at || tensor.layer < layers[0] || tensor.layer >= layers[1]) return []
      const count = pageRows(own, tensor)
      const stride = strideOf(at, tensor, { units: units[1] - units[0], rows: count })
      return [{ component, tensor, units, place: at, rows: rowsOf(tensor), stride }]
    })
  })
}

function tokenRows(options: {
  rank: Rank
  own: ComponentPlace
  tokens: number
  tokensPerRow: number
  pages: ArrayLike<number>
  wanted: Range
}): Rows {
  const { rank, own, tokens, tokensPerRow, pages, wanted } = options
  const { pageTokens = 1 } = own
  const held = heldTokens(rank, tokens, pageTokens)
  const [number, page, inPage]: [number[], number[], number[]] = [[], [], []]
  // An empty range has no row, also where it lies within one.
  const end = wanted[0] < wanted[1] ? Math.ceil(wanted[1] / tokensPerRow) : 0
  for (let row = Math.floor(wanted[0] / tokensPerRow); row < end; row++) {
    const token = row * tokensPerRow
    if (countHeld(held, token, token + 1) === 0) continue
    const at = position(held, token)
    number.push(row)
    page.push(pages[Math.floor(at / pageTokens)] ?? -1)
    inPage.push((at % pageTokens) / tokensPerRow)
  }
  return {
    number: Int32Array.from(number),
    page: Int32Array.from(page),
    inPage: Int32Array.from(inPage),
  }
}

function slotRows({ rows = 1 }: TensorShape, slots: ArrayLike<number>): Rows {
  const number = Int32Array.from({ length: slots.length * rows }, (_, i) => i)
  return {
    number,
    page: number.map((row) => slots[Math.floor(row / rows)] ?? -1),
    inPage: number.map((row) => row % rows),
  }
}

function strideOf(
  { order }: TensorPlace,
  { unitBytes, elementBytes = unitBytes }: TensorShape,
  held: { units: number; rows: number },
): HeldTensor['stride'] {
  switch (order) {
    case 'NHD':
      return { row: held.units * unitBytes, unit: unitBytes, element: elementBytes }
    case 'HND':
      return { row: unitBytes, unit: held.rows * unitBytes, element: elementBytes }
    case 'HDN':
      return { row: elementBytes, unit: held.rows * unitBytes, element: held.rows * elementBytes }
  }
}
