/** Why ranks cannot hold a cache, and so why the topologies of two sides cannot serve each other. */
import type { CacheShape, ComponentShape, TensorShape } from '../shape/index.ts'
import { tensorName } from '../shape/index.ts'
import { contextName, type Rank } from './rank.ts'

/** A field of a rank that does not fit the cache. */
interface Misfit {
  readonly field: 'stages' | 'tpSize' | 'context'
  /** A sentence without its end. */
  readonly why: string
  /** The same. */
  readonly advice: string
}

/** Which field does not fit, what both sides have there, why, and what would fit: sentences without the last end, or undefined. */
export function topologyObjection(
  shape: CacheShape,
  prefill: Rank,
  decode: Rank,
): string | undefined {
  const misfit = misfitOf(shape, prefill) ?? misfitOf(shape, decode)
  if (misfit === undefined) return undefined
  const { field, why, advice } = misfit
  return `The ranks do not fit in ${field}: prefill has ${valueOf(prefill, field)}, decode has ${valueOf(decode, field)}. ${why}; ${advice}`
}

/** The same of the ranks of one side alone. */
export function divisionObjection(shape: CacheShape, rank: Rank, side: string): string | undefined {
  const misfit = misfitOf(shape, rank)
  if (misfit === undefined) return undefined
  const { field, why, advice } = misfit
  return `${field} of ${side} is ${valueOf(rank, field)}. ${why}; ${advice}`
}

function misfitOf({ components, layers }: CacheShape, rank: Rank): Misfit | undefined {
  const { tpSize, cpSize, context, stages } = rank
  return (
    stagesMisfit(components, layers, stages) ??
    unitsMisfit(components, tpSize) ??
    (cpSize === 1 || typeof context === 'string'
      ? undefined
      : rowsMisfit(components, context.interleave))
  )
}

function stagesMisfit(
  components: readonly ComponentShape[],
  layers: number,
  stages: readonly number[],
): Misfit | undefined {
  const field = 'stages'
  if (stages.at(-1) !== layers) {
    return {
      field,
      why: `The cache has ${String(layers)} layers, those of a draft model among them`,
      advice: 'stages that end there would fit',
    }
  }
  const held = new Set(components.flatMap(({ tensors }) => tensors.map(({ layer }) => layer)))
  for (const [stage, end] of stages.slice(1).entries()) {
    const first = stages[stage] ?? 0
    if (hasAny(held, first, end)) continue
    return {
      field,
      why: `Stage ${String(stage)}, layers ${String(first)} to ${String(end - 1)}, has no tensor of the cache`,
      advice: 'stages of which each has one would fit',
    }
  }
  return undefined
}

function unitsMisfit(components: readonly ComponentShape[], tpSize: number): Misfit | undefined {
  for (const { name, tensors } of components) {
    const uneven = tensors.find((tensor) => !isEven(tensor, tpSize))
    if (!uneven) continue
    return {
      field: 'tpSize',
      why: `${tensorName(name, uneven)} has ${String(uneven.units)} units, which ${String(tpSize)} ranks cannot share evenly`,
      advice: `a number of ranks that divides ${String(uneven.units)}, or is a multiple of it, would fit`,
    }
  }
  return undefined
}

function rowsMisfit(components: readonly ComponentShape[], interleave: number): Misfit | undefined {
  for (const { name, tensors } of components) {
    const cut = tensors.find(({ tokensPerRow = 1 }) => interleave % tokensPerRow !== 0)
    if (!cut) continue
    return {
      field: 'context',
      why: `${tensorName(name, cut)} has one row for ${String(cut.tokensPerRow)} tokens, which may not be dealt out to two ranks`,
      advice: `a multiple of ${String(cut.tokensPerRow)} would fit`,
    }
  }
  return undefined
}

function valueOf(rank: Rank, field: Misfit['field']): string {
  switch (field) {
    case 'tpSize':
      return String(rank.tpSize)
    case 'stages':
      return `[${rank.stages.join(', ')}]`
    case 'context':
      return contextName(rank.context)
  }
}

function hasAny(layers: ReadonlySet<number>, first: number, end: number): boolean {
  for (let layer = first; layer < end; layer++) if (layers.has(layer)) return true
  return false
}

function isEven({ units }: TensorShape, tpSize: number): boolean {
  return units % tpSize === 0 || tpSize % units === 0
}
