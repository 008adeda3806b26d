/** The model of a schedule: what its cache is, and how an instance keeps it. */
import type { CacheShape, ComponentShape, PageOrder, TensorShape } from '@kvx/core'
import type { Random } from './random.ts'

export interface Model {
  readonly cache: CacheShape
  /** Tokens of the longest prompt. */
  readonly mostTokens: number
  /** Tokens of a page, by component: what most instances choose. */
  readonly pageTokens: Readonly<Record<string, number>>
}

/** What the ranks of one instance have in common in their places. */
export interface Keeping {
  /** By component that is addressed by tokens. */
  readonly pageTokens: Readonly<Record<string, number>>
  /** Pages, or slots, by component. */
  readonly pages: Readonly<Record<string, number>>
  /** By component. */
  readonly orders: Readonly<Record<string, PageOrder>>
  /** Unused bytes between two tensors, and between two pages. */
  readonly gap: number
  readonly padding: number
  /** Pages of all tensors of a component alternate. */
  readonly alternates: boolean
  readonly regions: 1 | 2
  /** The host lists components and tensors from the last to the first. */
  readonly reversed: boolean
}

/** Most slots of state that a request has. */
export const mostSlots = 2

export function drawModel(random: Random): Model {
  const layers = random.between(2, 3)
  const every = Array.from({ length: layers }, (_, layer) => layer)
  const units = random.one([1, 2, 2, 4])
  const unitBytes = random.one([1, 1, 2])
  const tensors = (of: readonly number[], parts: readonly Omit<TensorShape, 'layer' | 'dtype'>[]) =>
    of.flatMap((layer) =>
      parts.map((part): TensorShape => ({ ...part, layer, dtype: 'u8', elementBytes: 1 })),
    )
  // Some layers see a window, or have a state, instead of the whole prompt.
  const apart = random.chance(0.2) ? random.one(every) : undefined
  const hasWindow = random.chance(apart === undefined ? 0.12 : 0.6)
  const whole = every.filter((layer) => layer !== apart)
  const components: ComponentShape[] = [
    {
      name: 'kv',
      addressed: 'tokens',
      tensors: tensors(whole, drawParts(random, units, unitBytes)),
    },
  ]
  if (hasWindow) {
    components.push({
      name: 'swa',
      addressed: 'tokens',
      window: random.between(1, 5),
      tensors: tensors(apart === undefined ? every : [apart], [{ part: 'k', units, unitBytes }]),
    })
  }
  if (random.chance(0.15)) {
    const part = { part: 's', units: random.one([1, units]), unitBytes: 1, tokensPerRow: 2 }
    components.push({ name: 'scales', addressed: 'tokens', tensors: tensors(whole, [part]) })
  }
  if (random.chance(0.12)) {
    const part = { part: 'k', units: 1, unitBytes: 1 }
    components.push({ name: 'index', addressed: 'tokens', tensors: tensors(whole, [part]) })
  }
  const needsState = apart !== undefined && !hasWindow
  if (needsState || random.chance(0.4)) {
    const of = needsState ? [apart] : random.one([[0], [0, layers - 1]])
    const part = {
      part: 's',
      units: random.one([1, 2, 4]),
      unitBytes: 1,
      rows: random.between(1, 2),
    }
    components.push({ name: 'mamba', addressed: 'request', tensors: tensors(of, [part]) })
  }
  const cache: CacheShape = { model: 'simulated', layers, components }
  const paged = components.filter(({ addressed }) => addressed === 'tokens')
  const pageTokens = Object.fromEntries(
    paged.map((component) => [component.name, random.one([1, 2, 2]) * rowTokens(component)]),
  )
  return { cache, mostTokens: random.between(3, 9), pageTokens }
}

function drawParts(random: Random, units: number, unitBytes: number) {
  const kind = random.next()
  if (kind < 0.6)
    return [
      { part: 'k', units, unitBytes },
      { part: 'v', units, unitBytes },
    ]
  if (kind < 0.8) return [{ part: 'latent', units: 1, unitBytes }]
  // Tokens that share a row beside tokens that have one each.
  if (kind < 0.88)
    return [
      { part: 'k', units, unitBytes },
      { part: 's', units, unitBytes: 1, tokensPerRow: 2 },
    ]
  // Copies at every rank beside what the ranks divide.
  return [
    { part: 'k', units, unitBytes },
    { part: 'rope', units: 1, unitBytes: 1 },
  ]
}

/** Tokens of which a page must have a multiple. */
function rowTokens({ tensors }: ComponentShape): number {
  return Math.max(...tensors.map(({ tokensPerRow = 1 }) => tokensPerRow))
}

/** Tokens of which a stretch of interleaved context parallelism must have a multiple. */
export function stretchUnit({ components }: CacheShape): number {
  return Math.max(...components.map(rowTokens))
}

export function drawKeeping(random: Random, { cache, mostTokens, pageTokens }: Model): Keeping {
  const isUsual = random.chance(0.5)
  const own: Record<string, number> = {}
  const pages: Record<string, number> = {}
  const orders: Record<string, PageOrder> = {}
  for (const component of cache.components) {
    const { name, addressed } = component
    orders[name] = random.one(['NHD', 'NHD', 'HND', 'HDN'] as const)
    if (addressed === 'request') {
      pages[name] = mostSlots + random.between(1, 2)
      continue
    }
    const size = isUsual ? (pageTokens[name] ?? 1) : random.one([1, 2, 3, 4]) * rowTokens(component)
    own[name] = size
    pages[name] = Math.ceil(mostTokens / size) + random.between(0, 4)
  }
  return {
    pageTokens: own,
    pages,
    orders,
    gap: random.chance(0.2) ? 3 : 0,
    padding: random.chance(0.2) ? 2 : 0,
    alternates: random.chance(0.2),
    regions: random.chance(0.2) ? 2 : 1,
    reversed: random.chance(0.25),
  }
}
