import { decodeFrame, encodeMessage } from '@kvx/core/wire'
import type { Template } from './worlds/world.ts'

/** A message as the other side gets it. */
export function overTheWire(message: Template): Template | undefined {
  const [decoded] = decodeFrame(encodeMessage(message))
  return decoded
}
