/** A plan as single copies, written from its definition in the contract alone. */
import { blockWidth, groupWidth, laneWidth, type TransferPlan } from '@kvx/contract'

export interface Copy {
  readonly sourceRegion: number
  readonly sourceByte: number
  readonly destinationRegion: number
  readonly destinationByte: number
  readonly bytes: number
}

export function copiesOf({ lanes, groups, blocks }: TransferPlan): Copy[] {
  const copies: Copy[] = []
  for (const [firstGroup, endGroup, firstLane, endLane] of rows(blocks, blockWidth)) {
    for (const lane of rows(lanes, laneWidth).slice(firstLane, endLane)) {
      const [sourceRegion, destinationRegion, sourceBase, destinationBase, ...rest] = lane
      const [sourcePage, destinationPage, bytes, runs, sourceStride, destinationStride] = rest
      for (const [source, destination, count] of rows(groups, groupWidth).slice(
        firstGroup,
        endGroup,
      )) {
        for (let page = 0; page < (count ?? 0); page++) {
          for (let run = 0; run < (runs ?? 0); run++) {
            copies.push({
              sourceRegion: sourceRegion ?? -1,
              sourceByte:
                (sourceBase ?? 0) +
                ((source ?? 0) + page) * (sourcePage ?? 0) +
                run * (sourceStride ?? 0),
              destinationRegion: destinationRegion ?? -1,
              destinationByte:
                (destinationBase ?? 0) +
                ((destination ?? 0) + page) * (destinationPage ?? 0) +
                run * (destinationStride ?? 0),
              bytes: bytes ?? 0,
            })
          }
        }
      }
    }
  }
  return copies
}

function rows(table: Int32Array | Float64Array, width: number): number[][] {
  return Array.from({ length: table.length / width }, (_, row) => [
    ...table.subarray(row * width, (row + 1) * width),
  ])
}
