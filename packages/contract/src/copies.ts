import { blockWidth, groupWidth, laneWidth, type TransferPlan } from './contract.ts'

/**
 * Calls `copy` for each run of bytes that a plan moves, in the order in which `TransferPlan` defines them: for engines in
 * JavaScript, and what others are compared with. Offsets are in bytes from the beginning of the region; nothing is
 * checked.
 */
export function eachCopy(
  { lanes, groups, blocks }: TransferPlan,
  copy: (
    sourceRegion: number,
    source: number,
    destinationRegion: number,
    destination: number,
    bytes: number,
  ) => void,
): void {
  for (let block = 0; block < blocks.length; block += blockWidth) {
    for (let lane = blocks[block + 2]!; lane < blocks[block + 3]!; lane++) {
      const at = lane * laneWidth
      const [sourcePage, destinationPage] = [lanes[at + 4]!, lanes[at + 5]!]
      const [bytes, runs] = [lanes[at + 6]!, lanes[at + 7]!]
      const [sourceStride, destinationStride] = [lanes[at + 8]!, lanes[at + 9]!]
      for (let group = blocks[block]!; group < blocks[block + 1]!; group++) {
        const row = group * groupWidth
        for (let page = 0; page < groups[row + 2]!; page++) {
          const source = lanes[at + 2]! + (groups[row]! + page) * sourcePage
          const destination = lanes[at + 3]! + (groups[row + 1]! + page) * destinationPage
          for (let run = 0; run < runs; run++) {
            copy(
              lanes[at]!,
              source + run * sourceStride,
              lanes[at + 1]!,
              destination + run * destinationStride,
              bytes,
            )
          }
        }
      }
    }
  }
}
