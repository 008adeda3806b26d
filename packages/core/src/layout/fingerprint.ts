import { checked } from '../arguments.ts'
import { digest16 } from './digest.ts'
import { type Layout } from './layout.ts'
import { layoutSchema } from './validate.ts'

/**
 * 16 bytes over what all ranks of both sides must agree on: the model, its settings and its measures. What a rank holds
 * of it, and in which form, travels as its layout.
 *
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT` for what is no layout
 */
export function layoutFingerprint(layout: Layout): Uint8Array {
  checked(layoutSchema, layout, { name: 'layout', code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'open' })
  const { model, settings = {}, layers, heads } = layout
  const sorted = Object.entries(settings).sort(([a], [b]) => (a < b ? -1 : 1))
  return digest16(JSON.stringify([model, sorted, layers, heads]))
}
