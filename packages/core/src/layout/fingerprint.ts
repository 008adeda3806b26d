import { digest16 } from './digest.ts'
import { type Layout } from './layout.ts'

/**
 * 16 bytes over what all ranks of both sides must agree on: the model, its settings and its measures. What a rank holds
 * of it, and in which form, travels as its layout.
 */
export function layoutFingerprint({ model, settings = {}, layers, heads }: Layout): Uint8Array {
  const sorted = Object.entries(settings).sort(([a], [b]) => (a < b ? -1 : 1))
  return digest16(JSON.stringify([model, sorted, layers, heads]))
}
