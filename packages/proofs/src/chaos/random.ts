/** Seeded choices: the same seed draws the same plan. */
export interface Random {
  /** At least 0, less than 1. */
  next(): number
  /** An integer from `least` to `most`, inclusive. */
  integer(least: number, most: number): number
  /** @throws RangeError when there is nothing to choose from */
  pick<T>(from: readonly T[]): T
  /** A copy in another order. */
  shuffled<T>(items: readonly T[]): T[]
}

/** mulberry32, which is small and good enough to choose with. */
export function random(seed: number): Random {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const integer = (least: number, most: number) => least + Math.floor(next() * (most - least + 1))
  return {
    next,
    integer,
    pick: (from) => {
      if (from.length === 0) throw new RangeError('there is nothing to choose from')
      return from[integer(0, from.length - 1)]!
    },
    shuffled: (items) => {
      const copy = [...items]
      for (let i = copy.length - 1; i > 0; i--) {
        const j = integer(0, i)
        ;[copy[i], copy[j]] = [copy[j]!, copy[i]!]
      }
      return copy
    },
  }
}
