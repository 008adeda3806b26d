/** Whether two tensors of a region have bytes in common. */

/** `pages` stretches of `bytes` bytes, every `pageBytes` from `base` on. */
export interface Extent {
  readonly name: string
  readonly base: number
  readonly pages: number
  readonly pageBytes: number
  readonly bytes: number
}

/**
 * Two extents of one region that share a byte. Extents that reach into one another with pages at unequal distances count as
 * such: no allocator places tensors so.
 */
export function findOverlap(extents: readonly Extent[]): [Extent, Extent] | undefined {
  const sorted = [...extents].sort((a, b) => a.base - b.base)
  let group: Extent[] = []
  let end = 0
  for (const extent of sorted) {
    if (extent.base >= end) group = []
    const clash = group.find((other) => meet(other, extent))
    if (clash) return [clash, extent]
    group.push(extent)
    end = Math.max(end, endOf(extent))
  }
  return undefined
}

function endOf({ base, pages, pageBytes, bytes }: Extent): number {
  return base + (pages - 1) * pageBytes + bytes
}

/** @param a begins no later than `b` */
function meet(a: Extent, b: Extent): boolean {
  if (b.base >= endOf(a)) return false
  if (a.pageBytes !== b.pageBytes) return true
  const phase = (b.base - a.base) % a.pageBytes
  const page = (b.base - a.base - phase) / a.pageBytes
  // The page of `a` that begins no later than `b`, and the one after it.
  const within = page < a.pages && phase < a.bytes
  const into = page + 1 < a.pages && phase + b.bytes > a.pageBytes
  return within || into
}
