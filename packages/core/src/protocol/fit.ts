import { KvxError } from '@kvx/contract'
import { checkPlaces, type Layout } from '../layout/index.ts'

/**
 * Is what a peer says of its cache a layout at all? Its regions are checked by number here; their sizes only
 * the engine knows, which refuses writes beyond them.
 *
 * @throws KvxError `ERR_KVX_LAYOUT_INVALID`
 */
export function checkPeerLayout(layout: Layout, regions: number): void {
  try {
    checkPlaces(layout, new Array<number>(regions).fill(Number.MAX_SAFE_INTEGER))
  } catch (cause) {
    throw new KvxError('ERR_KVX_LAYOUT_INVALID', (cause as KvxError).message, { phase: 'hello' })
  }
}
