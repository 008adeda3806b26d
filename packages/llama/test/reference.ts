import type { Geometry } from '../src/state/geometry.ts'
import type { Form, Place } from '../src/state/blob.ts'

/**
 * A state written field by field, as the format is described, without any offsets. Rows that are out of a window are
 * zeros where they are there at all.
 *
 * @param byte the next byte of the cache: asked for each byte that counts, in the order of the state
 */
export function naiveState(
  geometry: Geometry,
  tokens: readonly number[],
  place: Place,
  form: Form,
  byte: (component: string, layer: number, part: string, row: number, index: number) => number,
): Buffer {
  const parts: Buffer[] = []
  const u32 = (...values: number[]): void => {
    parts.push(Buffer.from(Uint32Array.from(values).buffer))
  }
  const n = tokens.length
  u32(0x67677371, 3, n)
  tokens.forEach((token) => {
    u32(token)
  })
  for (const cache of geometry.caches) {
    const { component, layers } = cache
    if (cache.kind === 'recurrent') {
      u32(1, n - 1, 0, 0, geometry.layers)
      for (const list of [cache.convolution, cache.scan]) {
        for (const layer of layers) {
          const sizes = list.map(({ units, unitElements }) => 4 * units * unitElements)
          u32(
            0,
            sizes.reduce((a, b) => a + b, 0),
            0,
          )
          list.forEach(({ part }, i) => {
            const bytes = Array.from({ length: sizes[i] ?? 0 }, (_, at) =>
              byte(component, layer, part, 0, at),
            )
            parts.push(Buffer.from(bytes))
          })
        }
      }
      continue
    }
    const needed = cache.window === undefined ? 0 : Math.max(0, n - cache.window)
    const rows = Array.from({ length: n }, (_, row) => row).filter(
      (row) => form === 'loaded' || row >= needed,
    )
    u32(place.streams)
    for (let stream = 0; stream < place.streams; stream++) {
      if (stream !== place.stream) {
        u32(0)
        continue
      }
      u32(rows.length)
      for (const row of rows) u32(row, 1, place.sequence)
      u32(1, layers.length)
      const of = (layer: number, part: string, row: number, index: number) =>
        row < needed ? 0 : byte(component, layer, part, row, index)
      for (const layer of layers) {
        // 32 numbers of q8_0 are a scale of two bytes and a byte each.
        const isHalf = cache.keyDtype === 'f16'
        const width = cache.heads * (isHalf ? cache.keyDim * 2 : (cache.keyDim * 34) / 32)
        u32(isHalf ? 1 : 8, width, 0)
        const part = cache.valueDim === 0 ? 'latent' : 'k'
        const all = rows.flatMap((row) =>
          Array.from({ length: width }, (_, at) => of(layer, part, row, at)),
        )
        parts.push(Buffer.from(all))
      }
      if (cache.valueDim === 0) continue
      for (const layer of layers) {
        const elements = cache.heads * cache.valueDim
        u32(1, 2, elements)
        const all = Array.from({ length: elements }, (_, element) =>
          rows.flatMap((row) => [
            of(layer, 'v', row, 2 * element),
            of(layer, 'v', row, 2 * element + 1),
          ]),
        )
        parts.push(Buffer.from(all.flat()))
      }
    }
  }
  return Buffer.concat(parts)
}
