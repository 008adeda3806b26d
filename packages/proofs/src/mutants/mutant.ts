import type { Filter } from '@kvx/simulator'

/** A small, believable defect of @kvx/core that must be found. */
export interface Mutant {
  readonly name: string
  /** What it breaks: a key of `invariants`. */
  readonly invariant: Invariant
  /** The defect, in a sentence. */
  readonly says: string
  readonly edits: readonly Edit[]
  /** What looks for it: the program of that name. Default: schedules of the simulator. */
  readonly by?: 'schedules' | 'flood' | 'frames'
  /** Schedules in which it can show, where these are few: others are not run. */
  readonly among?: Filter
}

/** Core as it is: nothing may be found, or what is found in mutants says nothing. */
export const unchanged: readonly Pick<Mutant, 'name' | 'edits' | 'by'>[] = [
  { name: 'unchanged', edits: [] },
  { name: 'unchanged', edits: [], by: 'flood' },
  { name: 'unchanged', edits: [], by: 'frames' },
]

/** Replaces a text that occurs exactly once in a source file of core. */
export interface Edit {
  /** Below packages/core/src. */
  readonly file: string
  readonly find: string
  readonly replace: string
}

export const invariants = {
  1: 'The pages of a failed transfer stay leased until the writer says drained or the fence has resolved, never by time.',
  2: 'Success only after every byte of every component from every required rank, and the manifest agrees.',
  3: 'Terminal is final: one end for each caller, and the first cause is kept.',
  4: 'Nothing outlives its end and the linger, quarantine excepted; tables are bounded.',
  5: 'Every wait of a caller has a deadline.',
  6: 'Messages of another incarnation, generation or finished epoch change nothing.',
  7: 'Memory spent for peers that come, go and prove nothing is bounded.',
  8: 'A plan moves exactly the bytes that a brute-force reference moves.',
  9: 'On a healed network every request that no fault has hit ends in success.',
} as const

export type Invariant = keyof typeof invariants

/** The edits of one file: pairs of what is there and what stands there instead. */
export function inFile(
  file: string,
  ...pairs: (readonly [find: string, replace: string])[]
): Edit[] {
  return pairs.map(([find, replace]) => ({ file, find, replace }))
}
