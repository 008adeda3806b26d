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
 *
 * Each is compared only with its neighbours within a page: a peer may describe very many extents in a few words.
 */
export function findOverlap(extents: readonly Extent[]): [Extent, Extent] | undefined {
  const sorted = [...extents].sort((a, b) => a.base - b.base)
  /** Those that reach beyond the present one, at equal distances and apart from each other, by where in a page they begin. */
  let group: Extent[] = []
  let [origin, end] = [0, 0]
  for (const extent of sorted) {
    if (extent.base >= end) [group, origin] = [[], extent.base]
    const clash = otherDistance(group, extent) ?? joinGroup(group, extent, origin)
    if (clash) return [clash, extent]
    end = Math.max(end, endOf(extent))
  }
  return undefined
}

function otherDistance(group: readonly Extent[], extent: Extent): Extent | undefined {
  if (group[0] === undefined || group[0].pageBytes === extent.pageBytes) return undefined
  return group.find((one) => endOf(one) > extent.base)
}

/** Adds an extent, unless it meets the one before or behind it: then that is the answer. */
function joinGroup(group: Extent[], extent: Extent, origin: number): Extent | undefined {
  const phaseOf = ({ base, pageBytes }: Extent) => (base - origin) % pageBytes
  const phase = phaseOf(extent)
  let [at, high] = [0, group.length]
  while (at < high) {
    const middle = (at + high) >> 1
    if (phaseOf(group[middle]!) <= phase) at = middle + 1
    else high = middle
  }
  for (const side of [-1, 0]) {
    while (group.length > 0) {
      const i = (at + side + group.length) % group.length
      const neighbour = group[i]!
      if (endOf(neighbour) > extent.base) {
        if (meet(neighbour, extent)) return neighbour
        break
      }
      group.splice(i, 1)
      if (i < at) at--
    }
  }
  group.splice(at, 0, extent)
  return undefined
}

function endOf({ base, pages, pageBytes, bytes }: Extent): number {
  return base + (pages - 1) * pageBytes + bytes
}

/** @param a begins no later than `b`, reaches beyond the beginning of it, and has pages at the same distances */
function meet(a: Extent, b: Extent): boolean {
  const phase = (b.base - a.base) % a.pageBytes
  const page = (b.base - a.base - phase) / a.pageBytes
  // The page of `a` that begins no later than `b`, and the one after it.
  const within = page < a.pages && phase < a.bytes
  const into = page + 1 < a.pages && phase + b.bytes > a.pageBytes
  return within || into
}
