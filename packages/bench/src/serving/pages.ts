/** Which pages of a deployment are free, as its workers tell. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Deployment } from './deployment.ts'

const askMs = 10_000
const betweenMs = 50

/**
 * Pages of all workers that are not free.
 * @throws Error when a worker does not tell
 */
export async function takenPages({ workers }: Deployment): Promise<number> {
  const each = await Promise.all(
    workers.map(async ({ url }) => {
      const response = await fetch(`${url}/metrics`, { signal: AbortSignal.timeout(askMs) })
      const rows = [...(await response.text()).matchAll(/^kvx_pages\{state="(\w+)"\} (\d+)$/gm)]
      if (rows.length === 0) throw new Error(`${url}/metrics does not tell its pages.`)
      // What the prefix cache has and nobody uses is as good as free.
      const taken = rows.filter(([, state]) => state !== 'free' && state !== 'cached')
      return taken.reduce((sum, [, , value]) => sum + Number(value), 0)
    }),
  )
  return each.reduce((sum, pages) => sum + pages, 0)
}

/**
 * Waits until all pages are free, and no longer than `ms`.
 * @returns pages that are taken although no request is left: leaked ones
 * @throws as `takenPages`
 */
export async function leakedPages(deployment: Deployment, ms: number): Promise<number> {
  const end = performance.now() + ms
  for (;;) {
    const taken = await takenPages(deployment)
    if (taken === 0 || performance.now() > end) return taken
    await delay(betweenMs)
  }
}
