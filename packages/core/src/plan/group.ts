import { groupWidth } from '@kvx/contract'
import { KvxError } from '@kvx/contract'

/**
 * Writes the rows (source page, destination page, count) of pages that are consecutive on both sides
 * into `rows` from `at` on, and returns where they end. `rows` must have room for `groupWidth` numbers
 * per page. Pages stay in their order.
 *
 * @throws KvxError `ERR_KVX_PLAN_INVALID` when the lists differ in length
 */
export function groupPages(
  source: Int32Array,
  destination: Int32Array,
  rows: Int32Array,
  at = 0,
): number {
  if (source.length !== destination.length) {
    throw new KvxError(
      'ERR_KVX_PLAN_INVALID',
      `${source.length} source pages were paired with ${destination.length} destination pages.`,
    )
  }
  let row = at - groupWidth
  let nextSource = -1
  let nextDestination = -1
  for (let i = 0; i < source.length; i += 1) {
    const from = source[i] ?? 0
    const to = destination[i] ?? 0
    if (i > 0 && from === nextSource && to === nextDestination) {
      rows[row + 2] = (rows[row + 2] ?? 0) + 1
    } else {
      row += groupWidth
      rows[row] = from
      rows[row + 1] = to
      rows[row + 2] = 1
    }
    nextSource = from + 1
    nextDestination = to + 1
  }
  return row + groupWidth
}
