/** What a rank holds of a prompt, as one digest for each tensor, wherever its pages lie. */
import { createHash } from 'node:crypto'
import { tensorName } from '@kvx/core/bytes'
import { heldTensors, type HeldTensor, type RequestCache } from '../rows.ts'

/**
 * Of what decode needs: all tokens, or the last ones of a window, and the state of the request.
 * @returns by the name of the tensor
 * @throws RangeError when a page that is needed is missing
 */
export function digestsOf(cache: RequestCache, tokens: number): Record<string, string> {
  const held = heldTensors(cache, tokens, {
    layers: [0, cache.shape.layers],
    wanted: ({ window = tokens }) => [Math.max(0, tokens - window), tokens],
  })
  return Object.fromEntries(
    held.map((one) => [
      tensorName(one.component.name, one.tensor),
      createHash('sha256').update(rowsOf(one, cache)).digest('hex'),
    ]),
  )
}

/** All rows, one after the other, each with its units, each with its elements. */
function rowsOf(
  { tensor, units, place, rows, stride, component }: HeldTensor,
  { memory }: RequestCache,
): Buffer {
  const { unitBytes, elementBytes = unitBytes } = tensor
  const count = units[1] - units[0]
  const bytes = Buffer.alloc(rows.number.length * count * unitBytes)
  const source = memory[place.region]!
  const elements = stride.element === elementBytes ? 1 : unitBytes / elementBytes
  const piece = unitBytes / elements
  let to = 0
  for (let i = 0; i < rows.number.length; i++) {
    const page = rows.page[i]!
    if (page < 0)
      throw new RangeError(
        `${tensorName(component.name, tensor)} needs row ${String(rows.number[i])}, and there is no page for it.`,
      )
    const row = place.base + page * place.pageBytes + rows.inPage[i]! * stride.row
    for (let unit = 0; unit < count; unit++) {
      for (let element = 0; element < elements; element++) {
        const at = row + unit * stride.unit + element * stride.element
        for (let byte = 0; byte < piece; byte++) bytes[to++] = source[at + byte]!
      }
    }
  }
  return bytes
}
