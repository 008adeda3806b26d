import { laneWidth } from '@kvx/contract'
import { type Layout, type Tensor } from '../layout/layout.ts'

/** The lanes between two layouts, ordered by component, layer and part. */
export interface Lanes {
  /** Rows as in `TransferPlan.lanes`. */
  readonly rows: Float64Array
  /** Layer of each row. */
  readonly layers: Int32Array
  /** First and end row of each component. */
  readonly components: ReadonlyMap<string, readonly [first: number, end: number]>
}

/**
 * Pairs the tensors of two ranks by component, layer and part. What they share are the heads that
 * both hold; a pair without common heads gives no lane. Both sides compute the same rows in the same order.
 */
export function pairLanes(source: Layout, destination: Layout): Lanes {
  const destinations = byKey(destination.tensors)
  const pairs: { tensor: Tensor; row: number[] }[] = []
  for (const tensor of source.tensors) {
    for (const other of destinations.get(tensorKey(tensor)) ?? []) {
      const row = lane(tensor, other, source.pageTokens)
      if (row !== undefined) pairs.push({ tensor, row })
    }
  }
  pairs.sort((a, b) => compareTensors(a.tensor, b.tensor))

  const rows = new Float64Array(pairs.length * laneWidth)
  const layers = new Int32Array(pairs.length)
  const components = new Map<string, readonly [number, number]>()
  pairs.forEach(({ tensor, row }, i) => {
    rows.set(row, i * laneWidth)
    layers[i] = tensor.layer
    components.set(tensor.component, [components.get(tensor.component)?.[0] ?? i, i + 1])
  })
  return { rows, layers, components }
}

/** Tensors by what pairs them between two ranks: one or more that hold different heads. */
export function byKey(tensors: readonly Tensor[]): Map<string, Tensor[]> {
  const groups = new Map<string, Tensor[]>()
  for (const tensor of tensors) {
    const key = tensorKey(tensor)
    const known = groups.get(key)
    if (known === undefined) groups.set(key, [tensor])
    else known.push(tensor)
  }
  return groups
}

export function tensorKey(tensor: Tensor): string {
  return `${tensor.component}/${tensor.layer}/${tensor.part}`
}

function compareTensors(a: Tensor, b: Tensor): number {
  if (a.component !== b.component) return a.component < b.component ? -1 : 1
  if (a.layer !== b.layer) return a.layer - b.layer
  if (a.part !== b.part) return a.part < b.part ? -1 : 1
  return a.heads[0] - b.heads[0]
}

function lane(source: Tensor, destination: Tensor, pageTokens: number): number[] | undefined {
  const low = Math.max(source.heads[0], destination.heads[0])
  const high = Math.min(source.heads[1], destination.heads[1])
  if (low >= high) return undefined
  const shared = (high - low) * source.headBytes
  // The distance of two heads within a page, and of two runs of shared heads.
  const headMajor = source.order === 'head-major'
  const headStride = source.headBytes * (headMajor ? pageTokens : 1)
  const sourceStride = headCount(source) * source.headBytes
  const destinationStride = headCount(destination) * source.headBytes
  // One run when the shared heads of all tokens lie side by side on both sides.
  const whole = headMajor || (shared === sourceStride && shared === destinationStride)
  return [
    source.region,
    destination.region,
    source.base + (low - source.heads[0]) * headStride,
    destination.base + (low - destination.heads[0]) * headStride,
    source.pageBytes,
    destination.pageBytes,
    whole ? shared * pageTokens : shared,
    whole ? 1 : pageTokens,
    whole ? 0 : sourceStride,
    whole ? 0 : destinationStride,
  ]
}

export function headCount(tensor: Tensor): number {
  return tensor.heads[1] - tensor.heads[0]
}
