import { laneWidth, groupWidth, blockWidth, type TransferPlan } from '@kvx/contract'

/**
 * The copies that a plan orders, by the definition of the engine contract.
 *
 * @param regions where the memory of each side's regions begins
 */
export function expand(
  { lanes, groups, blocks }: TransferPlan,
  regions: { readonly source: readonly number[]; readonly destination: readonly number[] },
  copy: (source: number, destination: number, bytes: number) => void,
): void {
  for (let b = 0; b < blocks.length; b += blockWidth) {
    for (let lane = blocks[b + 2]!; lane < blocks[b + 3]!; lane++) {
      const at = lane * laneWidth
      const from = regions.source[lanes[at]!]! + lanes[at + 2]!
      const to = regions.destination[lanes[at + 1]!]! + lanes[at + 3]!
      for (let group = blocks[b]!; group < blocks[b + 1]!; group++) {
        const row = group * groupWidth
        for (let page = 0; page < groups[row + 2]!; page++) {
          const source = from + (groups[row]! + page) * lanes[at + 4]!
          const destination = to + (groups[row + 1]! + page) * lanes[at + 5]!
          for (let run = 0; run < lanes[at + 7]!; run++) {
            copy(source + run * lanes[at + 8]!, destination + run * lanes[at + 9]!, lanes[at + 6]!)
          }
        }
      }
    }
  }
}
