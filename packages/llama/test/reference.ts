import type { Geometry } from '../src/state/geometry.ts'
import type { Place } from '../src/state/blob.ts'

/** A state written field by field, as the format is described, without any offsets. */
export function naiveState(
  geometry: Geometry,
  tokens: readonly number[],
  place: Place,
  byte: () => number,
): Buffer {
  const parts: Buffer[] = []
  const u32 = (value: number): void => {
    const field = Buffer.alloc(4)
    field.writeUInt32LE(value)
    parts.push(field)
  }
  const data = (bytes: number): void => {
    parts.push(Buffer.from(Array.from({ length: bytes }, byte)))
  }
  const n = tokens.length
  u32(0x67677371)
  u32(3)
  u32(n)
  tokens.forEach(u32)
  u32(place.streams)
  for (let stream = 0; stream < place.streams; stream++) {
    if (stream !== place.stream) {
      u32(0)
      continue
    }
    u32(n)
    for (let position = 0; position < n; position++) {
      u32(position)
      u32(1)
      u32(place.sequence)
    }
    u32(1)
    u32(geometry.layers)
    for (let layer = 0; layer < geometry.layers; layer++) {
      const row = geometry.heads * geometry.keyDim * 2
      u32(1)
      u32(row)
      u32(0)
      data(row * n)
    }
    for (let layer = 0; layer < geometry.layers; layer++) {
      const elements = geometry.heads * geometry.valueDim
      u32(1)
      u32(2)
      u32(elements)
      data(2 * elements * n)
    }
  }
  return Buffer.concat(parts)
}
