/** The tensors of a component as one of two ranks keeps them, for the digests of what moves between the two. */
import { digestTensorWidth, type DigestJob } from '@kvx/contract'
import { digest16 } from '../../shape/digest.ts'
import { pageRows } from '../../place/place.ts'
import type { PairedComponent, SharedTensor } from '../component.ts'
import { elementBytes, stridesOf } from '../tensor-rows.ts'

export type PairSide = 'source' | 'destination'

/** The part of a job that is the same for all requests. */
export interface DigestTensors extends Pick<DigestJob, 'pageTokens' | 'tensors' | 'keys'> {
  /** Layer of each tensor, ascending. */
  readonly layers: Int32Array
}

export function digestTensors(paired: PairedComponent, side: PairSide): DigestTensors {
  const { component, tensors } = paired
  const pages = side === 'source' ? paired.sourcePages : paired.destinationPages
  const rows = new Float64Array(tensors.length * digestTensorWidth)
  for (const [i, shared] of tensors.entries()) {
    const row = tensorRow(shared, side, pageRows(pages, shared.tensor))
    rows.set(row, i * digestTensorWidth)
  }
  return {
    pageTokens: pages.pageTokens ?? 1,
    tensors: rows,
    keys: BigUint64Array.from(tensors, ({ tensor }) => tensorKey(component.name, tensor)),
    layers: Int32Array.from(tensors, ({ tensor }) => tensor.layer),
  }
}

/** As in `DigestJob.tensors`. */
function tensorRow(shared: SharedTensor, side: PairSide, rows: number): number[] {
  const { tensor, units } = shared
  const { place, held } = shared[side]
  const strides = stridesOf({ place, held, rows }, tensor)
  return [
    place.region,
    place.base + (units[0] - held[0]) * strides.unit,
    place.pageBytes,
    rows,
    units[1] - units[0],
    units[0],
    tensor.unitBytes,
    elementBytes(tensor),
    strides.row,
    strides.unit,
    strides.element,
  ]
}

/** From its name alone, so that both sides have the same. */
function tensorKey(component: string, { layer, part }: { layer: number; part: string }): bigint {
  const digest = digest16(JSON.stringify([component, layer, part]))
  return new DataView(digest.buffer).getBigUint64(0, true)
}
