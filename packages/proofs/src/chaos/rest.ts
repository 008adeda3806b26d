/** Are pages where they were before the load? */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from './cluster.ts'
import { gaugesMs } from './settings.ts'

/** How many pages of prefill and of decode are in which state; those of a prefix cache count as free, as anybody may take them. */
export async function pagesOf(cluster: Cluster): Promise<Record<string, number>[]> {
  const both = await Promise.all([cluster.pages('prefill'), cluster.pages('decode')])
  return both.map(({ free = 0, cached = 0, ...others }) => ({ free: free + cached, ...others }))
}

/**
 * Waits, without load, until pages are as they were; what is different when that takes too long, or nothing.
 * @throws Error when a worker does not tell its pages
 */
export async function differenceAtRest(
  cluster: Cluster,
  atRest: readonly Record<string, number>[],
): Promise<string[]> {
  const wanted = JSON.stringify(atRest)
  const end = Date.now() + gaugesMs
  for (;;) {
    const now = JSON.stringify(await pagesOf(cluster))
    if (now === wanted) return []
    if (Date.now() > end) return [`pages are ${now} without load, but were ${wanted}`]
    await sleep(50)
  }
}
