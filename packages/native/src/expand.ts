import { KvxError, type TransferPlan } from '@kvx/contract'
import { addon } from './addon.ts'

/**
 * The contiguous segments that a plan stands for, as rows of 5: source region, destination region,
 * source offset, destination offset, bytes. Engines do this on threads of their own; this is for tests and tools.
 *
 * @param sourceBytes size of each source region
 * @param destinationBytes size of each destination region
 * @param maxSegmentBytes longer segments are split; 0: no limit
 * @throws KvxError `ERR_KVX_PLAN_INVALID`
 */
export function expand(
  plan: TransferPlan,
  sourceBytes: readonly number[],
  destinationBytes: readonly number[],
  maxSegmentBytes = 0,
): Float64Array {
  const sizes = [...sourceBytes, ...destinationBytes, maxSegmentBytes]
  if (!sizes.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw new KvxError('ERR_KVX_INVALID_ARGUMENT', 'Sizes must be non-negative whole numbers.')
  }
  try {
    return addon().expand(
      plan.lanes,
      plan.groups,
      plan.blocks,
      Float64Array.from(sourceBytes),
      Float64Array.from(destinationBytes),
      maxSegmentBytes,
    )
  } catch (cause) {
    if (!(cause instanceof RangeError || cause instanceof TypeError)) throw cause
    throw new KvxError('ERR_KVX_PLAN_INVALID', `The transfer plan is invalid: ${cause.message}.`, {
      cause,
    })
  }
}
