import type { Lease } from '@kvx/core'
import type { Events } from './events.ts'

/**
 * Gives pages back once nothing of the transfer can touch them any more, which is at once when it has
 * succeeded. Until then they are nobody's: after a failure bytes may still be under way.
 */
export function returnPages(lease: Lease, settled: Promise<void>, events: Events): void {
  lease.quarantine(settled)
  void settled.then(() => {
    events('pages.released', { pages: lease.pages.length })
  })
}
