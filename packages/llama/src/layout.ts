import type { Layout, Tensor } from '@kvx/core'
import { elementBytes, keyRowBytes, valueRowBytes, type Geometry } from './state/geometry.ts'

/**
 * The layout of a pool in one region: per layer K (token-major) and V (head-major), each tensor with all
 * its pages in a row.
 *
 * @param model identifies the weights
 * @param settings what else decides the numbers in the cache
 */
export function modelLayout(
  geometry: Geometry,
  model: string,
  pageTokens: number,
  pages: number,
  settings: Readonly<Record<string, string>> = {},
): Layout {
  const tensors: Tensor[] = []
  let base = 0
  for (let layer = 0; layer < geometry.layers; layer++) {
    for (const part of ['k', 'v'] as const) {
      const isKey = part === 'k'
      const pageBytes = pageTokens * (isKey ? keyRowBytes(geometry) : valueRowBytes(geometry))
      tensors.push({
        component: 'kv',
        layer,
        part,
        dtype: 'f16',
        region: 0,
        base,
        pageBytes,
        heads: [0, geometry.heads],
        headBytes: (isKey ? geometry.keyDim : geometry.valueDim) * elementBytes,
        order: isKey ? 'token-major' : 'head-major',
      })
      base += pages * pageBytes
    }
  }
  const { layers, heads } = geometry
  return { model, settings, pageTokens, layers, heads, pages: { kv: pages }, tensors }
}

/** Bytes of one page over all tensors. */
export function bytesPerPage(layout: Layout): number {
  return layout.tensors.reduce((sum, tensor) => sum + tensor.pageBytes, 0)
}
