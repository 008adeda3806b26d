/** Are pages where they were before the load? */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from './cluster.ts'
import { gaugesMs } from './settings.ts'

/** How many pages of prefill and of decode are in which state. */
export function pagesOf(cluster: Cluster): Promise<Record<string, number>[]> {
  return Promise.all([cluster.pages('prefill'), cluster.pages('decode')])
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
