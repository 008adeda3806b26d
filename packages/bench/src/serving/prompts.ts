/** Prompts of any length whose tokens follow from a seed. */
import { randomOf } from '../synthetic/random.ts'

/** Ids that are words or parts of words in every vocabulary of some size: special tokens stand before them. */
const ids = { from: 300, to: 30_000 }

export function promptOf(seed: number, tokens: number): number[] {
  const random = randomOf(seed)
  return Array.from({ length: tokens }, () => ids.from + (random() % (ids.to - ids.from)))
}
