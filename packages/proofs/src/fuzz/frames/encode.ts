/** Messages as bytes. */
import { encodeMessage } from '@kvx/core/wire'
import type { Template } from '../worlds/world.ts'

export function encode(message: Template): Uint8Array {
  try {
    // A plain array: `slice` of a Buffer would not copy.
    const frame = encodeMessage(message, Infinity)
    return new Uint8Array(frame.buffer, frame.byteOffset, frame.length)
  } catch {
    // A number that CBOR has no form for: a bigint beyond 64 bits after an off-by-one.
    return new Uint8Array([0xa0])
  }
}

const frames = new WeakMap<Template, Uint8Array>()

/** The same for a template that is encoded again. */
export function encoded(template: Template): Uint8Array {
  let frame = frames.get(template)
  if (frame === undefined) {
    frame = encode(template)
    frames.set(template, frame)
  }
  return frame
}
