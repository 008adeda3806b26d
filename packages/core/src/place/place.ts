import type { TensorShape } from '../shape/shape.ts'

/**
 * Where one rank keeps its part of a cache: which tensors and which of their units these are, its rank says
 * (`holdings`); here is where they lie. Plain data: it travels in `hello` and `welcome`.
 */
export interface Place {
  /** By name of the component; all of which the rank holds tensors. */
  readonly components: Readonly<Record<string, ComponentPlace>>
  /** One for each tensor of the shape that the rank holds. */
  readonly tensors: readonly TensorPlace[]
}

/** The pages, or slots, of one component. */
export interface ComponentPlace {
  /** Tokens of a page; absent for a component that is addressed by request. A multiple of every `tokensPerRow`. */
  readonly pageTokens?: number
  /** Pages, or slots, that exist: indices run from 0 to this, exclusive. */
  readonly pages: number
}

/** Page p of a tensor begins at `base + p · pageBytes` of its region. */
export interface TensorPlace {
  /** Name of its component. */
  readonly component: string
  /** As in the shape. */
  readonly layer: number
  /** As in the shape. */
  readonly part: string
  /** Position in the list of memories that the manager was given. */
  readonly region: number
  /** Where page 0 begins, in bytes from the start of the region. */
  readonly base: number
  /** From one page to the next: at least the bytes of one, more where pages are padded or hold other tensors too. */
  readonly pageBytes: number
  /** How the bytes of a page are laid out. */
  readonly order: PageOrder
}

/**
 * How a page is laid out, the slowest index first; N: rows, H: units, D: the elements of a unit. `NHD` is
 * `[row][unit][element]`, `HND` `[unit][row][element]`, `HDN` `[unit][element][row]`.
 */
export type PageOrder = 'NHD' | 'HND' | 'HDN'

/** Rows of a tensor that a page, or a slot, has. */
export function pageRows(
  { pageTokens }: ComponentPlace,
  { tokensPerRow = 1, rows = 1 }: Pick<TensorShape, 'tokensPerRow' | 'rows'>,
): number {
  return pageTokens === undefined ? rows : pageTokens / tokensPerRow
}
