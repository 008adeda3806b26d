import { bytes } from './bytes.ts'
import { deadlines } from './deadlines.ts'
import { election } from './election.ts'
import { final } from './final.ts'
import { identity } from './identity.ts'
import { liveness } from './liveness.ts'
import type { Mutant } from './mutant.ts'
import { pages } from './pages.ts'
import { staging } from './staging.ts'
import { strangers } from './strangers.ts'
import { success } from './success.ts'
import { tables } from './tables.ts'

/** All mutants, by the invariant that they break. */
export const mutants: readonly Mutant[] = [
  ...pages,
  ...staging,
  ...success,
  ...bytes,
  ...election,
  ...final,
  ...tables,
  ...strangers,
  ...deadlines,
  ...identity,
  ...liveness,
].sort((a, b) => a.invariant - b.invariant)
