/** Two instances in one process, between which plans are carried out by plain copies. */
import { eachCopy, type TransferPlan } from '@kvx/contract'
import {
  countHeld,
  heldTokens,
  heldUnits,
  pageRows,
  Pairing,
  requiredPrefillRanks,
  tensorName,
  writtenPages,
  type CacheShape,
  type Prompt,
  type Range,
} from '@kvx/core/bytes'
import {
  placeOf,
  ranksOf,
  type PlaceOptions,
  type RequestCache,
  type Topology,
} from '../../src/index.ts'

/** What memory holds before anything is written. */
export const background = 0xa5

export type SideOptions = Omit<PlaceOptions, 'pages' | 'slots'> & { readonly topology: Topology }

/** All ranks of one data-parallel group, with pages for one request and some to spare. */
export function instance(shape: CacheShape, tokens: number, options: SideOptions): RequestCache[] {
  const { topology, ...place } = options
  return ranksOf(topology, shape.layers).map((rank): RequestCache => {
    const spare = 3
    const count = Math.ceil(
      countHeld(heldTokens(rank, tokens, place.pageTokens), 0, tokens) / place.pageTokens,
    )
    const made = placeOf(shape, rank, { ...place, pages: count + spare, slots: 2 })
    const pages = Object.fromEntries(
      Object.entries(made.place.components).map(([name, { pageTokens }]) => {
        // Some in a row, some not, and none of them where the other side has it.
        const all = Array.from({ length: count }, (_, i) => (i * 7 + rank.tp + 1) % (count + spare))
        const distinct = new Set(all).size === count ? all : all.map((_, i) => count + 2 - i)
        return [name, pageTokens === undefined ? [rank.tp % 2] : distinct]
      }),
    )
    const memory = made.regionBytes.map((bytes) => new Uint8Array(bytes).fill(background))
    return { shape, rank, place: made.place, memory, pages }
  })
}

/**
 * Every chunk of every prefill rank, to each decode rank that it serves.
 *
 * @param chunks where one ends and the next begins; the last one ends with the prompt
 * @returns bytes that were copied
 */
export function carry(
  prefill: readonly RequestCache[],
  decode: readonly RequestCache[],
  prompt: Prompt,
  chunks: readonly number[] = [],
): number {
  let bytes = 0
  for (const target of decode) {
    for (const source of requiredPrefillRanks(target.shape, target.rank, prefill, 0)) {
      const pairing = new Pairing(target.shape, source, target)
      for (const [i, end] of [...chunks, prompt.tokens].entries()) {
        const written: Range = [chunks[i - 1] ?? 0, end]
        const { plan } = pairing.plan(partsOf(pairing, { source, target, prompt, written }))
        bytes += copy(plan, source.memory, target.memory)
      }
    }
  }
  return bytes
}

function partsOf(
  pairing: Pairing,
  options: { source: RequestCache; target: RequestCache; prompt: Prompt; written: Range },
) {
  const { source, target, prompt, written } = options
  return [...pairing.layers.keys()].flatMap((component) => {
    const pageTokens = source.place.components[component]?.pageTokens
    const [mine, theirs] = [source, target].map(({ pages }) =>
      Int32Array.from(pages[component] ?? []),
    ) as [Int32Array, Int32Array]
    if (pageTokens === undefined) {
      return written[1] === prompt.tokens ? [{ component, source: mine, destination: theirs }] : []
    }
    const held = heldTokens(source.rank, prompt.tokens, pageTokens)
    const [first, end] = writtenPages(held, pageTokens, prompt.tokens, written)
    const [low, high] = pairing.pages(component, prompt).destination
    const pages = { source: mine.subarray(first, end), destination: theirs.subarray(low, high) }
    return [{ component, prompt, first, ...pages }]
  })
}

function copy(
  plan: TransferPlan,
  source: readonly Uint8Array[],
  target: readonly Uint8Array[],
): number {
  let bytes = 0
  eachCopy(plan, (from, at, to, there, length) => {
    target[to]!.set(source[from]!.subarray(at, at + length), there)
    bytes += length
  })
  return bytes
}

/** Tensors of which a page was written that the request has not. */
export function disturbed({ shape, rank, place, memory, pages }: RequestCache): string[] {
  return shape.components.flatMap(({ name, tensors }) => {
    const own = place.components[name]
    const taken = new Set(Array.from(pages[name] ?? []))
    return tensors.flatMap((tensor) => {
      const at = place.tensors.find(
        (one) => tensorName(one.component, one) === tensorName(name, tensor),
      )
      const units = heldUnits(rank, tensor)
      if (!own || !at || !units) return []
      const bytes = (units[1] - units[0]) * pageRows(own, tensor) * tensor.unitBytes
      const free = Array.from({ length: own.pages }, (_, page) => page).filter(
        (page) => !taken.has(page),
      )
      const isClean = free.every((page) => {
        const start = at.base + page * at.pageBytes
        return memory[at.region]!.subarray(start, start + bytes).every((one) => one === background)
      })
      return isClean ? [] : [tensorName(name, tensor)]
    })
  })
}
