import { blockWidth, groupWidth, laneWidth, type TransferPlan } from '@kvx/contract'

/**
 * How many contiguous runs a plan moves: those of a page that lie side by side on both sides count as one, and so do pages of
 * a group that do.
 */
export function countRuns({ lanes, groups, blocks }: TransferPlan): number {
  let runs = 0
  for (let block = 0; block < blocks.length; block += blockWidth) {
    const [firstGroup, endGroup] = [blocks[block]!, blocks[block + 1]!]
    let pages = 0
    for (let group = firstGroup; group < endGroup; group++) pages += groups[group * groupWidth + 2]!
    for (let lane = blocks[block + 2]!; lane < blocks[block + 3]!; lane++) {
      const at = lane * laneWidth
      const [bytes, times] = [lanes[at + 6]!, lanes[at + 7]!]
      const isOne = times === 1 || (lanes[at + 8] === bytes && lanes[at + 9] === bytes)
      const page = isOne ? bytes * times : NaN
      const touch = lanes[at + 4] === page && lanes[at + 5] === page
      runs += touch ? endGroup - firstGroup : pages * (isOne ? 1 : times)
    }
  }
  return runs
}
