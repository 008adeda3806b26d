/** Which ranks the instances of a schedule have. */
import { makeRank, type Context, type Rank } from '@kvx/core'
import type { CacheShape } from '@kvx/core'
import { stretchUnit } from './model.ts'
import type { Random } from './random.ts'

/** How many ranks of each kind. */
export interface Cut {
  readonly tp?: number
  readonly pp?: number
  readonly cp?: number
  readonly dp?: number
}

/** Prefill and decode, and how often. */
export const topologies: readonly (readonly [weight: number, prefill: Cut, decode: Cut])[] = [
  [40, {}, {}],
  [6, { pp: 2 }, {}],
  [6, {}, { pp: 2 }],
  [6, { tp: 2 }, {}],
  [6, {}, { tp: 2 }],
  [4, { tp: 2 }, { tp: 2 }],
  [3, { pp: 2 }, { pp: 2 }],
  [4, { pp: 2 }, { tp: 2 }],
  [3, { tp: 2 }, { pp: 2 }],
  [1, { pp: 3 }, { pp: 2 }],
  [1, { pp: 2 }, { pp: 3 }],
  [3, { tp: 4 }, {}],
  [2, {}, { tp: 4 }],
  [2, { tp: 4 }, { tp: 2 }],
  [2, { tp: 2 }, { tp: 4 }],
  [4, { cp: 2 }, {}],
  [4, {}, { cp: 2 }],
  [3, { cp: 2 }, { cp: 2 }],
  [1, { cp: 3 }, { cp: 2 }],
  [2, { cp: 2 }, { tp: 2 }],
  [2, { tp: 2 }, { cp: 2 }],
  [1, { tp: 2, cp: 2 }, { tp: 2 }],
  [1, { tp: 2 }, { tp: 2, cp: 2 }],
  [1, { pp: 2, cp: 2 }, {}],
  [4, { dp: 2 }, {}],
  [2, { dp: 2 }, { dp: 2 }],
]

export function drawRanks(
  random: Random,
  { tp = 1, pp = 1, cp = 1, dp = 1 }: Cut,
  cache: CacheShape,
): Rank[] {
  // Unlike stages on the two sides: every rank of one has bytes for several of the other.
  const stages = drawStages(random, pp, cache.layers)
  const ppSize = stages.length - 1
  const context = cp === 1 ? 'all' : drawContext(random, cache)
  const sizes = { tpSize: tp, ppSize, cpSize: cp, dpSize: dp }
  const ranks: Rank[] = []
  for (let d = 0; d < dp; d++) {
    for (let p = 0; p < ppSize; p++) {
      for (let c = 0; c < cp; c++) {
        for (let t = 0; t < tp; t++) {
          ranks.push(
            makeRank(cache.layers, { tp: t, pp: p, cp: c, dp: d, ...sizes, context, stages }),
          )
        }
      }
    }
  }
  return ranks
}

function drawStages(random: Random, pp: number, layers: number): number[] {
  const inner = random.shuffle(Array.from({ length: layers - 1 }, (_, i) => i + 1))
  return [0, ...inner.slice(0, pp - 1).sort((a, b) => a - b), layers]
}

function drawContext(random: Random, cache: CacheShape): Context {
  const interleave = random.between(1, 2) * stretchUnit(cache)
  return random.one<Context>(['all', 'contiguous', { interleave }])
}

export function isSingle({ tp = 1, pp = 1, cp = 1, dp = 1 }: Cut): boolean {
  return tp * pp * cp * dp === 1
}
