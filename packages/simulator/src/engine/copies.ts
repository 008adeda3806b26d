import { eachCopy, type TransferPlan } from '@kvx/contract'

/**
 * The copies that a plan orders, as addresses.
 *
 * @param regions where the memory of each side's regions begins
 */
export function expand(
  plan: TransferPlan,
  regions: { readonly source: readonly number[]; readonly destination: readonly number[] },
  copy: (source: number, destination: number, bytes: number) => void,
): void {
  eachCopy(plan, (sourceRegion, source, destinationRegion, destination, bytes) => {
    copy(
      regions.source[sourceRegion]! + source,
      regions.destination[destinationRegion]! + destination,
      bytes,
    )
  })
}
