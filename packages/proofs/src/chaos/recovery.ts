/** When a deployment works as before. */
import type { Cluster } from './cluster.ts'
import type { Load } from './load.ts'

/**
 * Milliseconds from `since` to the first whole answer to a request that began after it. Resolves when one was done by prefill and
 * decode together as well, which that answer does not show.
 * @throws Error when either does not happen for too long
 */
export async function recovery(load: Load, cluster: Cluster, since: number): Promise<number> {
  const [ms] = await Promise.all([load.success(since), cluster.crossed()])
  return ms
}
