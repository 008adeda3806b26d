import { eachCopy, type TransferPlan } from '@kvx/contract'

export interface Copy {
  readonly sourceRegion: number
  readonly sourceByte: number
  readonly destinationRegion: number
  readonly destinationByte: number
  readonly bytes: number
}

/** A plan as single copies. */
export function copiesOf(plan: TransferPlan): Copy[] {
  const copies: Copy[] = []
  eachCopy(plan, (sourceRegion, sourceByte, destinationRegion, destinationByte, bytes) => {
    copies.push({ sourceRegion, sourceByte, destinationRegion, destinationByte, bytes })
  })
  return copies
}
