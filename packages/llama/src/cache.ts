/** What a model keeps of a prompt, and where its pool keeps that: for `@kvx/core`, and for what fills the pool. */
import {
  makeRank,
  type CacheShape,
  type ComponentPlace,
  type ComponentShape,
  type Place,
  type Rank,
  type TensorPlace,
  type TensorShape,
} from '@kvx/core/bytes'
import {
  elementBytes,
  keyBytes,
  stateElementBytes,
  type AttentionCache,
  type Geometry,
  type RecurrentCache,
} from './state/geometry.ts'

export interface ModelCache {
  readonly shape: CacheShape
  /** The only one. */
  readonly rank: Rank
  /** In one region. Without pages nothing lies there. */
  readonly place: Place
  /** Of the region. */
  readonly bytes: number
}

/**
 * The cache of a model with a pool. Each tensor has all its pages in a row: K token by token, V element by element
 * ([head][element][token]), as llama.cpp saves both, so that no pair of bytes has to be transposed.
 *
 * @param model identifies the weights
 * @param settings what else decides the numbers in the cache
 * @param pool tokens per page, pages of each component that is addressed by tokens, and slots of each that is addressed
 *   by request
 */
export function cacheOf(
  geometry: Geometry,
  model: string,
  settings: Readonly<Record<string, string>>,
  pool: { readonly pageTokens: number; readonly pages: number; readonly slots: number },
): ModelCache {
  const components = geometry.caches
    .filter(({ layers }) => layers.length > 0)
    .map((cache) => (cache.kind === 'attention' ? attentionShape(cache) : stateShape(cache)))
  const { pageTokens, pages, slots } = pool
  const places: Record<string, ComponentPlace> = {}
  const tensors: TensorPlace[] = []
  let base = 0
  for (const { name, addressed, tensors: parts } of components) {
    const component = addressed === 'tokens' ? { pageTokens, pages } : { pages: slots }
    places[name] = component
    for (const { layer, part, units, unitBytes } of parts) {
      const pageBytes = units * unitBytes * (component.pageTokens ?? 1)
      const order = part === 'v' ? 'HDN' : 'NHD'
      tensors.push({ component: name, layer, part, region: 0, base, pageBytes, order })
      base += component.pages * pageBytes
    }
  }
  const { layers } = geometry
  return {
    shape: { model, settings, layers, components },
    rank: makeRank(layers),
    place: { components: places, tensors },
    bytes: base,
  }
}

/** The same cache with a pool of another size. */
export function resized(
  { shape, rank, place }: ModelCache,
  pool: { readonly pages: number; readonly slots: number },
): ModelCache {
  const components = Object.fromEntries(
    Object.entries(place.components).map(([name, component]) => [
      name,
      { ...component, pages: component.pageTokens === undefined ? pool.slots : pool.pages },
    ]),
  )
  let base = 0
  const tensors = place.tensors.map((tensor) => {
    const placed = { ...tensor, base }
    base += (components[tensor.component]?.pages ?? 0) * tensor.pageBytes
    return placed
  })
  return { shape, rank, place: { components, tensors }, bytes: base }
}

function attentionShape(cache: AttentionCache): ComponentShape {
  const { component, window, layers, heads, valueDim, keyDtype } = cache
  const key = (layer: number, part: string): TensorShape => ({
    ...{ layer, part, dtype: keyDtype, units: heads, unitBytes: keyBytes(cache) },
    // A block cannot be taken apart.
    ...(keyDtype === 'f16' && { elementBytes }),
  })
  const value = (layer: number): TensorShape => ({
    ...{ layer, part: 'v', dtype: 'f16', units: heads, unitBytes: valueDim * elementBytes },
    elementBytes,
  })
  return {
    name: component,
    addressed: 'tokens',
    ...(window !== undefined && { window }),
    tensors: layers.flatMap((layer) =>
      valueDim === 0 ? [key(layer, 'latent')] : [key(layer, 'k'), value(layer)],
    ),
  }
}

function stateShape({ component, layers, convolution, scan }: RecurrentCache): ComponentShape {
  return {
    name: component,
    addressed: 'request',
    tensors: layers.flatMap((layer) =>
      [...convolution, ...scan].map(({ part, units, unitElements }) => ({
        ...{ layer, part, dtype: 'f32', units, unitBytes: unitElements * stateElementBytes },
      })),
    ),
  }
}
