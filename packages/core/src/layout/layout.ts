/** Where the bytes of one rank's cache lie. Plain data: it travels in `hello` and `welcome`. */
export interface Layout {
  /** Identifies the weights, best by a digest of their content. Both sides must name the same. */
  readonly model: string
  /** What else decides the numbers in a cache, by name: both sides must have the same. At most 64. */
  readonly settings?: Readonly<Record<string, string>>
  /** Tokens per page. */
  readonly pageTokens: number
  /** Layers of the whole model. */
  readonly layers: number
  /** KV heads of the whole model. */
  readonly heads: number
  /** Pages that exist per component: page indices run from 0 to this, exclusive. */
  readonly pages: Readonly<Record<string, number>>
  readonly tensors: readonly Tensor[]
}

export type Part = 'k' | 'v' | 'latent'

/** One layer's K, V or latent cache: page p begins at `base + p · pageBytes` of its region. */
export interface Tensor {
  /** `kv`, or a further state kind of a hybrid model. */
  readonly component: string
  /** Layer number in the whole model. */
  readonly layer: number
  readonly part: Part
  /** `f16`, `bf16`, `f32`, `fp8_e4m3`, `q8_0`, … Compared, never interpreted. */
  readonly dtype: string
  /** Position in the list of memories given to the manager. */
  readonly region: number
  readonly base: number
  readonly pageBytes: number
  /** Half-open range of the model's KV heads that this rank holds. */
  readonly heads: readonly [number, number]
  /** Bytes of one head of one token: head dimension times element size. */
  readonly headBytes: number
  /** Within a page: `token-major` is [token][head][dim], `head-major` is [head][dim][token]. */
  readonly order: 'token-major' | 'head-major'
}

/** Characters of a name: of a model, a component, a dtype, an instance, a backend. */
export const maxNameLength = 200

/** Settings that a layout may have, and the characters of a name or value of one. */
export const mostSettings = 64
export const longestSetting = 200

/** Pages of a component; 0 when there is no such component, also for names that every object has. */
export function pageCount({ pages }: Layout, component: string): number {
  return Object.hasOwn(pages, component) ? (pages[component] ?? 0) : 0
}
