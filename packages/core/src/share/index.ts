/** Who sends what. */
export {
  cover,
  emptyCoverage,
  firstCovered,
  firstMissing,
  type Coverage,
  type Rectangle,
} from './coverage.ts'
export {
  chosenDpRank,
  dpRankOf,
  isPublisher,
  sendingObjection,
  type DpRank,
} from './data-parallel.ts'
export { electedUnits } from './elect.ts'
export { heldUnits, stageOf, unitsOf, type Range } from './holdings.ts'
export { divisionObjection, topologyObjection } from './objection.ts'
export {
  contextName,
  equalRanks,
  makeRank,
  maxRanks,
  rankCount,
  rankName,
  rankObjection,
  sameRank,
  type Context,
  type Rank,
} from './rank.ts'
export { requiredPrefillRanks, servedDecodeRanks } from './served.ts'
export { countHeld, heldTokens, position, tokenAt, type Held } from './tokens.ts'
