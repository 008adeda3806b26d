/** Numbers that look random and are the same for the same seed. */

/** The next is below 2 ** 32. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let mixed = Math.imul(state ^ (state >>> 16), 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    return (mixed ^ (mixed >>> 15)) >>> 0
  }
}

/** In place. */
export function shuffle<T extends { [at: number]: unknown; readonly length: number }>(
  list: T,
  random: () => number,
): T {
  for (let i = list.length - 1; i > 0; i--) {
    const j = random() % (i + 1)
    const one = list[i]
    ;(list as Record<number, unknown>)[i] = list[j]
    ;(list as Record<number, unknown>)[j] = one
  }
  return list
}
