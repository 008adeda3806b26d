/** Copies of equal pieces at equal distances, in several dimensions, as few rows of one dimension. */

/** `count` copies, `source` and `destination` bytes apart. */
export interface Loop {
  readonly count: number
  readonly source: number
  readonly destination: number
}

/** `runs` copies of `bytes` bytes, from these offsets on. */
export interface Row {
  readonly source: number
  readonly destination: number
  readonly bytes: number
  readonly runs: number
  readonly sourceStride: number
  readonly destinationStride: number
}

/**
 * The copies of `bytes` bytes that nested loops make, in whichever order: loops over what lies side by side become longer
 * pieces, and loops that continue one another become one. The longest loop that is left runs within a row, the others
 * make rows.
 */
export function rowsOf(bytes: number, loops: readonly Loop[]): Row[] {
  const joined = joinLoops(bytes, loops)
  const [runs = { count: 1, source: 0, destination: 0 }, ...rest] = joined.loops.sort(
    (a, b) => b.count - a.count,
  )
  let starts = [{ source: 0, destination: 0 }]
  for (const { count, source, destination } of rest) {
    starts = starts.flatMap((start) =>
      Array.from({ length: count }, (_, i) => ({
        source: start.source + i * source,
        destination: start.destination + i * destination,
      })),
    )
  }
  return starts.map((start) => ({
    ...start,
    bytes: joined.bytes,
    runs: runs.count,
    sourceStride: runs.source,
    destinationStride: runs.destination,
  }))
}

function joinLoops(piece: number, given: readonly Loop[]): { bytes: number; loops: Loop[] } {
  let bytes = piece
  let loops = given.filter(({ count }) => count > 1)
  for (;;) {
    const beside = loops.find(
      ({ source, destination }) => source === bytes && destination === bytes,
    )
    if (beside) {
      bytes *= beside.count
      loops = loops.filter((loop) => loop !== beside)
      continue
    }
    const pair = continued(loops)
    if (!pair) return { bytes, loops }
    const [outer, inner] = pair
    loops = loops.filter((loop) => loop !== outer && loop !== inner)
    loops.push({ ...inner, count: outer.count * inner.count })
  }
}

/** Two loops of which the outer one goes on where the inner one ends, on both sides. */
function continued(loops: readonly Loop[]): [outer: Loop, inner: Loop] | undefined {
  for (const outer of loops) {
    const inner = loops.find(
      (loop) =>
        loop !== outer &&
        outer.source === loop.count * loop.source &&
        outer.destination === loop.count * loop.destination,
    )
    if (inner) return [outer, inner]
  }
  return undefined
}
