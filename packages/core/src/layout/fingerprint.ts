import { digest16 } from './digest.ts'
import { type Layout } from './layout.ts'

/**
 * 16 bytes over what all ranks of both sides must agree on: the model and its measures. What a rank holds
 * of it, and in which form, travels as its layout.
 */
export function layoutFingerprint({ model, layers, heads }: Layout): Uint8Array {
  return digest16(JSON.stringify([model, layers, heads]))
}
