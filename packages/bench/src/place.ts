/** Where a synthetic rank keeps its part of a cache. */
import {
  heldUnits,
  pageRows,
  type CacheShape,
  type ComponentPlace,
  type PageOrder,
  type Place,
  type Rank,
  type TensorPlace,
} from '@kvx/core/bytes'

export interface PlaceOptions {
  /** Tokens of a page. */
  readonly pageTokens: number
  /** Pages of each component that is addressed by tokens. */
  readonly pages: number
  /** Slots of each component that is addressed by request. Default: 1. */
  readonly slots?: number
  /** Default: `NHD`. */
  readonly order?: PageOrder
  /** Tensors of a component that lie in one region. Default: all. */
  readonly tensorsPerRegion?: number
  /** Page p of all tensors of a region lies before page p + 1 of any. Default: the pages of a tensor lie together. */
  readonly interleaved?: boolean
}

/** Where tensors begin, as allocators align them. */
const alignment = 256

/** A rank's place, and the bytes of the regions that it needs. */
export function placeOf(
  shape: CacheShape,
  rank: Rank,
  options: PlaceOptions,
): { place: Place; regionBytes: number[] } {
  const { pageTokens, pages, slots = 1, order = 'NHD', interleaved = false } = options
  const components: Record<string, ComponentPlace> = {}
  const tensors: TensorPlace[] = []
  const regionBytes: number[] = []
  for (const component of shape.components) {
    const own = component.addressed === 'tokens' ? { pages, pageTokens } : { pages: slots }
    const held = component.tensors.flatMap((tensor) => {
      const units = heldUnits(rank, tensor)
      const bytes = units && (units[1] - units[0]) * pageRows(own, tensor) * tensor.unitBytes
      return bytes === undefined ? [] : [{ tensor, bytes }]
    })
    if (held.length === 0) continue
    components[component.name] = own
    for (const list of chunks(held, options.tensorsPerRegion ?? held.length)) {
      const region = regionBytes.length
      const all = list.reduce((sum, { bytes }) => sum + bytes, 0)
      let next = 0
      for (const { tensor, bytes } of list) {
        tensors.push({
          ...{ component: component.name, layer: tensor.layer, part: tensor.part, region, order },
          ...{ base: next, pageBytes: interleaved ? all : bytes },
        })
        next = interleaved ? next + bytes : aligned(next + bytes * own.pages)
      }
      regionBytes.push(interleaved ? aligned(all * own.pages) : next)
    }
  }
  return { place: { components, tensors }, regionBytes }
}

function chunks<T>(list: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(list.length / size) }, (_, i) =>
    list.slice(i * size, (i + 1) * size),
  )
}

function aligned(byte: number): number {
  return Math.ceil(byte / alignment) * alignment
}
