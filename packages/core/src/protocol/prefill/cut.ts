/** Short runs: whether a piece has them, and how it is cut into loads, each of which fits into a bay. */
import type { TransferPlan } from '@kvx/contract'
import { countRuns, type Moved } from '../../plan/index.ts'
import type { PiecePart, PrefillStaging } from './state.ts'

export interface Planned {
  readonly plan: TransferPlan
  /** Of each part. */
  readonly moved: readonly Moved[]
  readonly bytes: number
}

export interface Cut {
  readonly parts: readonly PiecePart[]
  readonly planned: Planned
}

export function hasShortRuns(
  { plan, bytes }: Planned,
  { shortRun, fewestRuns }: Pick<PrefillStaging, 'shortRun' | 'fewestRuns'>,
): boolean {
  const runs = countRuns(plan)
  return runs >= fewestRuns && bytes < runs * shortRun
}

/** In halves, until each has `most` bytes at most or is one layer of one page, or of all slots. */
export function cut(
  parts: readonly PiecePart[],
  plan: (parts: readonly PiecePart[]) => Planned,
  most: number,
): Cut[] {
  const planned = plan(parts)
  if (planned.bytes === 0) return []
  const halves = planned.bytes > most ? halve(parts) : undefined
  if (!halves) return [{ parts, planned }]
  return halves.flatMap((half) => cut(half, plan, most))
}

function halve(parts: readonly PiecePart[]): PiecePart[][] | undefined {
  const [part] = parts
  if (!part) return undefined
  if (parts.length > 1) {
    const middle = parts.length >> 1
    return [parts.slice(0, middle), parts.slice(middle)]
  }
  const { first, source, layers } = part
  if (first !== undefined && source.length > 1) {
    const middle = source.length >> 1
    return [
      [{ ...part, source: source.subarray(0, middle) }],
      [{ ...part, first: first + middle, source: source.subarray(middle) }],
    ]
  }
  const middle = (layers[0] + layers[1]) >> 1
  if (middle === layers[0]) return undefined
  return [[{ ...part, layers: [layers[0], middle] }], [{ ...part, layers: [middle, layers[1]] }]]
}
