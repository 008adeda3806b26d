/** The cache of a model that is never loaded: one layer with K and V, eight pages. */
import type { CacheShape, Place } from '@kvx/core'

export const pageTokens = 4
export const pages = 8
export const pageBytes = 64
const tensors = ['k', 'v'].map((part) => ({ layer: 0, part }))
export const shape: CacheShape = {
  model: 'none',
  layers: 1,
  components: [
    {
      name: 'kv',
      addressed: 'tokens',
      tensors: tensors.map((tensor) => ({
        ...{ ...tensor, dtype: 'f16', units: 1, unitBytes: pageBytes / pageTokens },
      })),
    },
  ],
}
export const place: Place = {
  components: { kv: { pageTokens, pages } },
  tensors: tensors.map((tensor, i) => ({
    ...{ component: 'kv', ...tensor, region: 0, base: i * pages * pageBytes, pageBytes },
    order: 'NHD',
  })),
}
