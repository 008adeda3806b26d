import * as v from 'valibot'
import { KvxError } from '@kvx/contract'
import { checked, exactly, integer, name, recordOf } from '../arguments.ts'
import { wholeRank } from '../share/given.ts'
import { heldUnits, type Range } from '../share/holdings.ts'
import { rankName, type Rank } from '../share/rank.ts'
import {
  checkShape,
  tensorName,
  type CacheShape,
  type ComponentShape,
  type TensorShape,
} from '../shape/index.ts'
import { findOverlap, type Extent } from './overlap.ts'
import { pageRows, type ComponentPlace, type Place, type TensorPlace } from './place.ts'

const natural = integer(0)
const positive = integer(1)

const sizes = v.array(natural, 'an array of numbers of bytes')

const placeSchema = exactly({
  components: recordOf(
    exactly({ pageTokens: v.optional(positive), pages: integer(1, 2 ** 31 - 1) }),
  ),
  tensors: v.array(
    exactly({
      component: name,
      layer: natural,
      part: name,
      region: natural,
      base: natural,
      pageBytes: positive,
      order: v.picklist(['NHD', 'HND', 'HDN'], "'NHD', 'HND' or 'HDN'"),
    }),
    'an array of tensors',
  ),
})

/**
 * Does it say of every tensor that the rank holds, and of no other, where that lies: within its region, and apart from all
 * others?
 *
 * @param regionBytes sizes of the memories that `TensorPlace.region` counts
 * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
 */
export function checkPlace(
  shape: CacheShape,
  rank: Rank,
  place: Place,
  regionBytes: readonly number[],
): void {
  const argument = { code: 'ERR_KVX_INVALID_ARGUMENT', phase: 'open' } as const
  checkShape(shape)
  checked(wholeRank, rank, { ...argument, name: 'rank' })
  checked(placeSchema, place, { ...argument, name: 'place' })
  checked(sizes, regionBytes, { ...argument, name: 'regionBytes' })
  const wrong = placeObjection(shape, rank, place, regionBytes)
  if (wrong === undefined) return
  throw new KvxError('ERR_KVX_INVALID_ARGUMENT', `${wrong}.`, { phase: 'open' })
}

/** The same of what has the form of a place already. */
export function placeObjection(
  shape: CacheShape,
  rank: Rank,
  place: Place,
  regionBytes: readonly number[],
): string | undefined {
  const left = new Map<string, TensorPlace>()
  for (const tensor of place.tensors) {
    const name = tensorName(tensor.component, tensor)
    if (left.has(name)) return `place has ${name} twice`
    left.set(name, tensor)
  }
  const byRegion = new Map<number, Extent[]>()
  for (const component of shape.components) {
    const held = component.tensors.flatMap((tensor) => {
      const units = heldUnits(rank, tensor)
      return units ? [{ tensor, units }] : []
    })
    if (held.length === 0) continue
    const pages = Object.hasOwn(place.components, component.name)
      ? place.components[component.name]
      : undefined
    const wrong = pagesObjection(component, pages)
    if (!pages || wrong !== undefined) return wrong
    for (const { tensor, units } of held) {
      const name = tensorName(component.name, tensor)
      const found = left.get(name)
      if (!found) return `place lacks ${name}, which rank ${rankName(rank)} holds`
      left.delete(name)
      const extent = extentOf(name, tensor, { place: found, units, pages })
      const objection = extentObjection(extent, tensor, found, regionBytes)
      if (objection !== undefined) return `${name}: ${objection}`
      const others = byRegion.get(found.region)
      if (others) others.push(extent)
      else byRegion.set(found.region, [extent])
    }
  }
  const [extra] = left.keys()
  if (extra !== undefined) return `place has ${extra}, which rank ${rankName(rank)} does not hold`
  for (const [region, extents] of byRegion) {
    const pair = findOverlap(extents)
    if (pair) {
      return `${pair[0].name} and ${pair[1].name} overlap in region ${String(region)}; tensors whose pages alternate must have equal pageBytes`
    }
  }
  return undefined
}

function pagesObjection(
  { name, addressed, tensors }: ComponentShape,
  pages: ComponentPlace | undefined,
): string | undefined {
  if (!pages) return `place.components lacks '${name}'`
  const { pageTokens } = pages
  if (addressed === 'request') {
    return pageTokens === undefined
      ? undefined
      : `place.components.${name}: pageTokens is for components that are addressed by 'tokens'`
  }
  if (pageTokens === undefined) return `place.components.${name}: pageTokens is missing`
  const uneven = tensors.find(({ tokensPerRow = 1 }) => pageTokens % tokensPerRow !== 0)
  if (!uneven) return undefined
  return `place.components.${name}: pageTokens must be a multiple of ${String(uneven.tokensPerRow)}, the tokensPerRow of ${tensorName(name, uneven)}, got ${String(pageTokens)}`
}

function extentOf(
  name: string,
  tensor: TensorShape,
  { place, units, pages }: { place: TensorPlace; units: Range; pages: ComponentPlace },
): Extent {
  const { base, pageBytes } = place
  const bytes = (units[1] - units[0]) * pageRows(pages, tensor) * tensor.unitBytes
  return { name, base, pages: pages.pages, pageBytes, bytes }
}

function extentObjection(
  { base, pages, pageBytes, bytes }: Extent,
  { elementBytes }: TensorShape,
  { region, order }: TensorPlace,
  regionBytes: readonly number[],
): string | undefined {
  if (order === 'HDN' && elementBytes === undefined) {
    return "the order 'HDN' needs elementBytes in the shape"
  }
  if (pageBytes < bytes) {
    return `pageBytes must be at least ${String(bytes)}, the bytes of a page, got ${String(pageBytes)}`
  }
  if (base < 0) return `base must be an integer from 0 on, got ${String(base)}`
  const size = regionBytes[region]
  if (size === undefined) {
    return `region must be below ${String(regionBytes.length)}, the number of memories, got ${String(region)}`
  }
  const end = base + (pages - 1) * pageBytes + bytes
  if (end <= size) return undefined
  return `it ends at byte ${String(end)} of region ${String(region)}, which has ${String(size)} bytes`
}
