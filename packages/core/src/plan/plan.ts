import { blockWidth, groupWidth, laneWidth, type TransferPlan } from '@kvx/contract'
import { KvxError } from '@kvx/contract'
import { pageCount, type Layout } from '../layout/layout.ts'
import { groupPages } from './group.ts'
import { pairLanes, type Lanes } from './lanes.ts'

/** Pages of one component that move, in the same order on both sides. */
export interface PlanPart {
  readonly component: string
  /** Half-open range of the model's layers. Default: all. */
  readonly layers?: readonly [number, number] | undefined
  readonly sourcePages: Int32Array
  readonly destinationPages: Int32Array
}

/**
 * Plans transfers between one source rank and one destination rank whose layouts fit (`checkFit`).
 * The lanes are computed once; a plan per chunk only groups pages and refers to them.
 */
export class Planner {
  readonly lanes: Lanes
  readonly #source: Layout
  readonly #destination: Layout

  constructor(source: Layout, destination: Layout) {
    this.#source = source
    this.#destination = destination
    this.lanes = pairLanes(source, destination)
  }

  /**
   * @throws KvxError `ERR_KVX_PLAN_INVALID` for an unknown component, a page that does not exist, or
   *   lists of pages that differ in length
   */
  plan(parts: readonly PlanPart[]): TransferPlan {
    const pages = parts.reduce((sum, part) => sum + part.sourcePages.length, 0)
    const groups = new Int32Array(pages * groupWidth)
    const blocks = new Int32Array(parts.length * blockWidth)
    let groupEnd = 0
    let blockEnd = 0
    for (const part of parts) {
      const [firstLane, endLane] = this.laneRange(part.component, part.layers)
      if (firstLane === endLane || part.sourcePages.length === 0) continue
      const start = groupEnd
      groupEnd = groupPages(part.sourcePages, part.destinationPages, groups, start)
      const rows = groups.subarray(start, groupEnd)
      checkPages('source', this.#source, part.component, rows)
      checkPages('destination', this.#destination, part.component, rows)
      blocks[blockEnd] = start / groupWidth
      blocks[blockEnd + 1] = groupEnd / groupWidth
      blocks[blockEnd + 2] = firstLane
      blocks[blockEnd + 3] = endLane
      blockEnd += blockWidth
    }
    return {
      lanes: this.lanes.rows,
      groups: groups.slice(0, groupEnd),
      blocks: blocks.slice(0, blockEnd),
    }
  }

  /**
   * First and end lane of a component within a range of layers; equal when the two ranks share nothing there.
   * @throws KvxError `ERR_KVX_PLAN_INVALID`
   */
  laneRange(component: string, layers?: readonly [number, number]): readonly [number, number] {
    const range = this.lanes.components.get(component)
    if (range === undefined) {
      throw new KvxError(
        'ERR_KVX_PLAN_INVALID',
        `The two ranks share no tensor of the component '${component}'.`,
      )
    }
    if (layers === undefined) return range
    const [low, high] = layers
    if (
      !Number.isInteger(low) ||
      !Number.isInteger(high) ||
      low < 0 ||
      low > high ||
      high > this.#source.layers
    ) {
      throw new KvxError(
        'ERR_KVX_PLAN_INVALID',
        `The layers ${low} to ${high} are no range of the ${this.#source.layers} layers of the model.`,
      )
    }
    let [first, end] = range
    while (first < end && (this.lanes.layers[first] ?? 0) < low) first += 1
    while (end > first && (this.lanes.layers[end - 1] ?? 0) >= high) end -= 1
    return [first, end]
  }

  /** Bytes that move for one page of a component, over all lanes of a range of layers. Throws as `laneRange`. */
  bytesPerPage(component: string, layers?: readonly [number, number]): number {
    const [first, end] = this.laneRange(component, layers)
    let bytes = 0
    for (let lane = first; lane < end; lane += 1) {
      bytes +=
        (this.lanes.rows[lane * laneWidth + 6] ?? 0) * (this.lanes.rows[lane * laneWidth + 7] ?? 0)
    }
    return bytes
  }
}

/** One plan for two layouts; whoever plans repeatedly keeps a `Planner`. Throws as `Planner.plan`. */
export function planTransfer(options: {
  source: Layout
  destination: Layout
  parts: readonly PlanPart[]
}): TransferPlan {
  return new Planner(options.source, options.destination).plan(options.parts)
}

/** Pages that do not exist could lie in another tensor of the same region, where native code sees nothing wrong. */
function checkPages(
  side: 'source' | 'destination',
  layout: Layout,
  component: string,
  groups: Int32Array,
): void {
  const count = pageCount(layout, component)
  const column = side === 'source' ? 0 : 1
  for (let row = 0; row < groups.length; row += groupWidth) {
    const first = groups[row + column] ?? 0
    const last = first + (groups[row + 2] ?? 0) - 1
    if (first >= 0 && last < count) continue
    throw new KvxError(
      'ERR_KVX_PLAN_INVALID',
      `The ${side} page ${first < 0 ? first : last} does not exist: the component '${component}' has ${count} pages there.`,
    )
  }
}
