/** Digests of tensors as digests of layers, and which of these differ. */
import { digestBytes } from '@kvx/contract'

/**
 * The digests of all tensors of each layer added, 16 bytes per layer that occurs, ascending.
 *
 * @param layers of each tensor, ascending
 * @param digests of each tensor, as an engine answers
 */
export function layerDigests(layers: Int32Array, digests: Uint8Array): Uint8Array {
  const result = new Uint8Array(distinct(layers).length * digestBytes)
  let at = -1
  for (const [i, layer] of layers.entries()) {
    if (layer !== layers[i - 1]) at++
    add(result, at * digestBytes, digests.subarray(i * digestBytes, (i + 1) * digestBytes))
  }
  return result
}

/** Digests of the same things at several pairs of ranks, added one by one: what a rank has of all its peers together. */
export function addDigests(a: Uint8Array, b: Uint8Array): Uint8Array {
  const result = a.slice()
  add(result, 0, b)
  return result
}

/**
 * Layers of which the digests differ, ascending.
 *
 * @param layers of each tensor, ascending
 * @param a as `layerDigests` answers; digests of another number of layers differ in all of them
 */
export function differingLayers(layers: Int32Array, a: Uint8Array, b: Uint8Array): number[] {
  const list = distinct(layers)
  if (a.length !== list.length * digestBytes || b.length !== a.length) return list
  return list.filter((_, i) => {
    const [first, end] = [i * digestBytes, (i + 1) * digestBytes]
    return a.subarray(first, end).some((byte, k) => byte !== b[first + k])
  })
}

function distinct(layers: Int32Array): number[] {
  return [...layers].filter((layer, i) => layer !== layers[i - 1])
}

/** Numbers of 8 bytes, each modulo 2 ** 64. */
function add(to: Uint8Array, at: number, digests: Uint8Array): void {
  const [sums, summands] = [viewOf(to), viewOf(digests)]
  for (let i = 0; i < digests.length; i += 8) {
    const sum = sums.getBigUint64(at + i, true) + summands.getBigUint64(i, true)
    sums.setBigUint64(at + i, BigInt.asUintN(64, sum), true)
  }
}

function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength)
}
