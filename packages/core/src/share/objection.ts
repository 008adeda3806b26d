/** Why the topologies of two sides cannot serve each other: each names both values. */
import type { CacheShape, TensorShape } from '../shape/index.ts'
import { tensorName } from '../shape/index.ts'
import type { Rank } from './rank.ts'

/** Words that follow a colon, or undefined. */
export function topologyObjection(
  shape: CacheShape,
  prefill: Rank,
  decode: Rank,
): string | undefined {
  return divisionObjection(shape, prefill, 'prefill') ?? divisionObjection(shape, decode, 'decode')
}

/** Why ranks like this one cannot hold the shape, in words that follow a colon, or undefined. */
export function divisionObjection(
  { components, layers }: CacheShape,
  { tpSize, cpSize, context, stages }: Rank,
  side: string,
): string | undefined {
  if (stages.at(-1) !== layers) {
    return `${side}'s pipeline stages end at layer ${String(stages.at(-1))}, the cache has ${String(layers)} layers`
  }
  const layersHeld = new Set(components.flatMap(({ tensors }) => tensors.map(({ layer }) => layer)))
  for (const [stage, end] of stages.slice(1).entries()) {
    const first = stages[stage] ?? 0
    if (!hasAny(layersHeld, first, end)) {
      return `${side}'s pipeline stage ${String(stage)}, layers ${String(first)} to ${String(end - 1)}, has no tensor of the cache; stages of which each has one would fit`
    }
  }
  for (const { name, tensors } of components) {
    const uneven = tensors.find((tensor) => !isEven(tensor, tpSize))
    if (uneven) {
      return `${side}'s ${String(tpSize)} tensor-parallel ranks cannot share the ${String(uneven.units)} units of ${tensorName(name, uneven)} evenly; a number of ranks that divides them, or that they divide, would fit`
    }
  }
  if (cpSize === 1 || typeof context === 'string') return undefined
  const { interleave } = context
  for (const { name, tensors } of components) {
    const cut = tensors.find(({ tokensPerRow = 1 }) => interleave % tokensPerRow !== 0)
    if (cut) {
      return `${side}'s context-parallel ranks take ${String(interleave)} tokens in turn, and ${tensorName(name, cut)} has one row for ${String(cut.tokensPerRow)} tokens; a multiple of these would fit`
    }
  }
  return undefined
}

function hasAny(layers: ReadonlySet<number>, first: number, end: number): boolean {
  for (let layer = first; layer < end; layer++) if (layers.has(layer)) return true
  return false
}

function isEven({ units }: TensorShape, tpSize: number): boolean {
  return units % tpSize === 0 || tpSize % units === 0
}
