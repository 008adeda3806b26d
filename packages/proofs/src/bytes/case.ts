/** Random caches, topologies, places and requests: what the arithmetic of bytes has to answer for. */
import * as fc from 'fast-check'
import {
  heldTokens,
  heldUnits,
  countHeld,
  pageRows,
  rankName,
  topologyObjection,
  type CacheShape,
  type ComponentShape,
  type Context,
  type PageOrder,
  type Place,
  type Range,
  type Rank,
  type TensorPlace,
  type TensorShape,
} from '@kvx/core/bytes'
import { Random } from '@kvx/simulator'
import { lcm } from './lcm.ts'

/** A rank with its place, and the pages that it has for the request: of each component, in the order of the prompt. */
export interface RankCase {
  readonly rank: Rank
  readonly place: Place
  readonly regionBytes: readonly number[]
  readonly pages: Readonly<Record<string, readonly number[]>>
}

/** Tokens `from` to `end` of layers `layers`, written by every prefill rank. */
export interface WriteCase {
  readonly tokens: Range
  readonly layers: Range
}

export interface BytesCase {
  readonly shape: CacheShape
  readonly prefill: readonly RankCase[]
  readonly decode: readonly RankCase[]
  readonly tokens: number
  readonly prefix: number
  readonly writes: readonly WriteCase[]
}

const sizes = [1, 2, 3, 4, 6, 8]
/** Ranks of prefill times ranks of decode. */
const mostPairs = 48
const orders: readonly PageOrder[] = ['NHD', 'HND', 'HDN']

/** Of everything few, so that a case takes a millisecond and a counterexample can be read. */
export const bytesCase: fc.Arbitrary<BytesCase> = fc
  .record({
    layers: fc.integer({ min: 1, max: 5 }),
    prefillTp: fc.constantFrom(...sizes),
    decodeTp: fc.constantFrom(...sizes),
  })
  .filter(({ prefillTp, decodeTp }) => prefillTp * decodeTp <= mostPairs)
  .chain(({ layers, prefillTp, decodeTp }) =>
    fc
      .record({
        shape: shapeOf(layers, [prefillTp, decodeTp]),
        prefill: topology(layers, prefillTp),
        decode: topology(layers, decodeTp),
        tokens: fc.integer({ min: 1, max: 32 }),
      })
      .filter(
        ({ shape, prefill, decode }) =>
          prefill.length * decode.length <= mostPairs &&
          topologyObjection(shape, prefill[0], decode[0]) === undefined,
      ),
  )
  .chain(({ shape, prefill, decode, tokens }) =>
    fc
      .record({ from: pageSizes(shape, prefill[0]), to: pageSizes(shape, decode[0]) })
      .chain(({ from, to }) => {
        const spans = shape.components
          .filter(({ addressed }) => addressed === 'tokens')
          .map(({ name }) => spanOf(decode[0], to[name] ?? 1))
        const block = spans.reduce(lcm, 1)
        const prefixes = Array.from({ length: Math.floor(tokens / block) + 1 }, (_, i) => i * block)
        return fc.record({
          shape: fc.constant(shape),
          tokens: fc.constant(tokens),
          prefix: fc.constantFrom(...new Set([...prefixes, tokens])),
          prefill: fc.tuple(...prefill.map((rank) => rankCase(shape, rank, from, tokens))),
          decode: fc.tuple(...decode.map((rank) => rankCase(shape, rank, to, tokens))),
          writes: writesOf(tokens, shape.layers),
        })
      }),
  )

function shapeOf(layers: number, tpSizes: readonly number[]): fc.Arbitrary<CacheShape> {
  const units = [1, 2, 3, 4, 6, 8, 12].filter((count) =>
    tpSizes.every((size) => count % size === 0 || size % count === 0),
  )
  const tensor = fc.record({
    units: fc.constantFrom(...units),
    elementBytes: fc.constantFrom(1, 2),
    elements: fc.integer({ min: 1, max: 3 }),
    tokensPerRow: fc.constantFrom(1, 1, 1, 2, 4),
    rows: fc.integer({ min: 1, max: 3 }),
  })
  const component = fc.record({
    addressed: fc.constantFrom('tokens' as const, 'tokens' as const, 'request' as const),
    window: fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined, freq: 3 }),
    layers: fc.uniqueArray(fc.integer({ min: 0, max: layers - 1 }), { minLength: 1 }),
    parts: fc.array(tensor, { minLength: 1, maxLength: 2 }),
  })
  return fc.array(component, { minLength: 1, maxLength: 3 }).map((components) => ({
    model: 'm',
    layers,
    components: components.map(({ addressed, window, layers: held, parts }, i): ComponentShape => ({
      name: `c${String(i)}`,
      addressed,
      ...(addressed === 'tokens' && window !== undefined && { window }),
      tensors: held.flatMap((layer) =>
        parts.map(({ units, elementBytes, elements, tokensPerRow, rows }, part): TensorShape => ({
          layer,
          part: `p${String(part)}`,
          dtype: 'u8',
          units,
          unitBytes: elements * elementBytes,
          elementBytes,
          ...(addressed === 'tokens' ? { tokensPerRow } : { rows }),
        })),
      ),
    })),
  }))
}

/** All ranks of one data-parallel group. */
function topology(layers: number, tpSize: number): fc.Arbitrary<[Rank, ...Rank[]]> {
  const context = fc.oneof(
    fc.constantFrom<Context>('all', 'contiguous'),
    fc.constantFrom(1, 2, 3, 4, 8).map((interleave): Context => ({ interleave })),
  )
  return fc
    .record({
      cuts: fc.uniqueArray(fc.integer({ min: 1, max: Math.max(1, layers - 1) }), { maxLength: 2 }),
      cpSize: fc.constantFrom(1, 1, 2, 3),
      context,
    })
    .map(({ cuts, cpSize, context: share }) => {
      const inner = cuts.filter((cut) => cut < layers).sort((a, b) => a - b)
      const stages = [0, ...inner, layers]
      const ranks: Rank[] = []
      for (let pp = 0; pp < stages.length - 1; pp++) {
        for (let cp = 0; cp < cpSize; cp++) {
          for (let tp = 0; tp < tpSize; tp++) {
            ranks.push({
              ...{ tp, tpSize, pp, ppSize: stages.length - 1, cp, cpSize },
              ...{ context: share, dp: 0, dpSize: 1, stages },
            })
          }
        }
      }
      return ranks as [Rank, ...Rank[]]
    })
}

function pageSizes(
  { components }: CacheShape,
  { cpSize, context }: Rank,
): fc.Arbitrary<Record<string, number>> {
  const most = cpSize > 1 && typeof context === 'object' ? 3 : 6
  return fc.record(
    Object.fromEntries(
      components
        .filter(({ addressed }) => addressed === 'tokens')
        .map(({ name, tensors }) => {
          const unit = tensors.reduce((size, { tokensPerRow = 1 }) => lcm(size, tokensPerRow), 1)
          return [name, fc.integer({ min: 1, max: most }).map((n) => n * unit)]
        }),
    ),
  )
}

/** Tokens of the prompt from the beginning of a page of one rank to that of its next. */
function spanOf({ cpSize, context }: Rank, pageTokens: number): number {
  if (cpSize === 1 || typeof context === 'string') return pageTokens
  return lcm(pageTokens, context.interleave) * cpSize
}

function rankCase(
  shape: CacheShape,
  rank: Rank,
  pageTokens: Readonly<Record<string, number>>,
  tokens: number,
): fc.Arbitrary<RankCase> {
  const held = shape.components.flatMap((component) => {
    const tensors = component.tensors.flatMap((tensor) => {
      const units = heldUnits(rank, tensor)
      return units ? [{ component, tensor, units: units[1] - units[0] }] : []
    })
    return tensors.length > 0 ? [{ component, tensors }] : []
  })
  const needed = held.map(({ component: { name, addressed } }) => {
    const size = pageTokens[name]
    if (addressed === 'request' || size === undefined) return { name, count: 1 }
    return { name, count: Math.ceil(countHeld(heldTokens(rank, tokens, size), 0, tokens) / size) }
  })
  return fc
    .record({
      spare: fc.integer({ min: 0, max: 3 }),
      seed: fc.integer(),
      orders: fc.array(fc.constantFrom(...orders), { minLength: 1, maxLength: 4 }),
      gap: fc.constantFrom(0, 0, 5),
      padding: fc.constantFrom(0, 0, 3),
      alternate: fc.boolean(),
    })
    .map(({ spare, seed, orders: choice, gap, padding, alternate }) => {
      const components = Object.fromEntries(
        needed.map(({ name, count }) => {
          const size = pageTokens[name]
          const pages = Math.max(1, count + spare)
          return [name, size === undefined ? { pages } : { pages, pageTokens: size }]
        }),
      )
      const tensors: TensorPlace[] = []
      const regionBytes = [0, 0]
      let next = 0
      for (const { component, tensors: list } of held) {
        const pages = components[component.name]
        if (!pages) continue
        const sizes = list.map(
          ({ tensor, units }) => units * pageRows(pages, tensor) * tensor.unitBytes + padding,
        )
        const all = sizes.reduce((sum, size) => sum + size, 0)
        const region = next % 2
        list.forEach(({ tensor }, i) => {
          const size = sizes[i] ?? 0
          const before = regionBytes[region] ?? 0
          const inPage = sizes.slice(0, i).reduce((sum, bytes) => sum + bytes, 0)
          tensors.push({
            ...{ component: component.name, layer: tensor.layer, part: tensor.part, region },
            base: before + gap + (alternate ? inPage : 0),
            pageBytes: alternate ? all : size,
            order: choice[next % choice.length] ?? 'NHD',
          })
          if (!alternate) regionBytes[region] = before + gap + size * pages.pages
          next++
        })
        if (alternate) regionBytes[region] = (regionBytes[region] ?? 0) + gap + all * pages.pages
      }
      const pages = Object.fromEntries(
        needed.map(({ name, count }) => [
          name,
          shuffled(components[name]?.pages ?? 1, seed).slice(0, count),
        ]),
      )
      return { rank, place: { components, tensors }, regionBytes, pages }
    })
}

/** Numbers below `count`: half of the seeds leave them in order, with a swap. */
function shuffled(count: number, seed: number): number[] {
  const numbers = Array.from({ length: count }, (_, i) => i)
  const random = new Random(seed)
  if (seed % 2 !== 0) return random.shuffle(numbers)
  const last = count - 1
  const other = random.between(0, last)
  ;[numbers[last], numbers[other]] = [other, last]
  return numbers
}

/** Chunks cut anywhere, of layers in any order. */
function writesOf(tokens: number, layers: number): fc.Arbitrary<WriteCase[]> {
  const cuts = (most: number) =>
    fc
      .uniqueArray(fc.integer({ min: 1, max: most }), { maxLength: 3 })
      .map((list) => [...new Set([0, ...list, most])].sort((a, b) => a - b))
  const rangesOf = (list: readonly number[]) =>
    list.slice(1).map((end, i): Range => [list[i] ?? 0, end])
  return cuts(tokens).chain((chunks) =>
    fc
      .tuple(
        ...rangesOf(chunks).map((chunk) =>
          cuts(layers)
            .chain((list) => fc.shuffledSubarray(rangesOf(list), { minLength: list.length - 1 }))
            .map((list) => list.map((range): WriteCase => ({ tokens: chunk, layers: range }))),
        ),
      )
      .map((lists) => lists.flat()),
  )
}

/** One line for a report. */
export function describeCase({
  shape,
  prefill,
  decode,
  tokens,
  prefix,
  writes,
}: BytesCase): string {
  const side = (ranks: readonly RankCase[]) => ranks.map(({ rank }) => rankName(rank)).join(' ')
  return `${String(tokens)} tokens, prefix ${String(prefix)}, ${String(shape.components.length)} components, ${String(writes.length)} writes; prefill ${side(prefill)}; decode ${side(decode)}`
}
