import type { Layout } from '@kvx/core'
import { elementBytes, keyRowBytes, valueRowBytes, type Geometry } from './geometry.ts'
import { stateShape, type Place } from './blob.ts'

/** Numbers per row; see `scatter` of `@kvx/native`. */
const width = 7

/**
 * How the K and V of a state of `n` tokens map to pages: rows for `scatter` and `gather` of
 * `@kvx/native` (buffer base, buffer run stride, page base, page bytes, page run stride, runs, token
 * bytes), in the order of the layout's tensors.
 *
 * K lies token by token on both sides. V lies element by element ([head][dim][token]) on both sides, so
 * that no byte pair has to be transposed: one run per element.
 */
export function stateTensors(
  geometry: Geometry,
  layout: Layout,
  n: number,
  place: Place,
): Float64Array {
  const shape = stateShape(geometry, n, place)
  const header = 12
  const rows = new Float64Array(width * layout.tensors.length)
  layout.tensors.forEach((tensor, index) => {
    const { layer, base, pageBytes } = tensor
    rows.set(
      tensor.part === 'k'
        ? [
            shape.keys + layer * shape.keyStep + header,
            0,
            base,
            pageBytes,
            0,
            1,
            keyRowBytes(geometry),
          ]
        : [
            shape.values + layer * shape.valueStep + header,
            n * elementBytes,
            base,
            pageBytes,
            layout.pageTokens * elementBytes,
            valueRowBytes(geometry) / elementBytes,
            elementBytes,
          ],
      index * width,
    )
  })
  return rows
}
