import { digest16 } from './digest.ts'
import { type Layout } from './layout.ts'

/**
 * 16 bytes over what both sides must agree on: the model and the form of its cache. Not over what each
 * side chooses for itself: addresses, numbers and sizes of pages, and which heads a rank holds.
 */
export function layoutFingerprint(layout: Layout): Uint8Array {
  const tensors = layout.tensors.map(({ component, layer, part, dtype, headBytes, order }) =>
    JSON.stringify([component, layer, part, dtype, headBytes, order]),
  )
  const form = [layout.model, layout.layers, layout.heads, [...new Set(tensors)].sort()]
  return digest16(JSON.stringify(form))
}
