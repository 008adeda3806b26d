/** Which worker takes the next request. */

/** The worker with the fewest live requests; among equals the one whose turn it is. */
export function leastLoaded<W extends { readonly live: number }>(
  workers: readonly W[],
  turn: number,
): W {
  let best = workers[turn % workers.length]
  if (best === undefined) throw new RangeError('there is no worker to choose from')
  for (let i = 1; i < workers.length; i++) {
    const worker = workers[(turn + i) % workers.length]
    if (worker !== undefined && worker.live < best.live) best = worker
  }
  return best
}
