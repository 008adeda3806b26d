/** Which worker takes the next request. */

interface Candidate {
  /** Requests that it works on. */
  readonly live: number
  readonly healthy: boolean
}

/**
 * Of the workers that this request has not tried, the healthy one with the fewest live requests; among
 * equals the one whose turn it is. When none seems healthy the others are as good: undefined only when
 * all have been tried.
 */
export function choose<W extends Candidate>(
  workers: readonly W[],
  turn: number,
  tried: ReadonlySet<unknown> = new Set(),
): W | undefined {
  const untried = workers.filter((worker) => !tried.has(worker))
  const healthy = untried.filter((worker) => worker.healthy)
  const candidates = healthy.length > 0 ? healthy : untried
  let best: W | undefined
  for (let i = 0; i < candidates.length; i++) {
    const worker = candidates[(turn + i) % candidates.length]
    if (worker !== undefined && (best === undefined || worker.live < best.live)) best = worker
  }
  return best
}
