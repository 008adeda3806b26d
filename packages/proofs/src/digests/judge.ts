/** Do the digests of both sides agree when the bytes do, and do they name the place when one byte does not? */
import { createHash } from 'node:crypto'
import { digests } from '@kvx/contract'
import {
  addDigests,
  differingLayers,
  digestJob,
  layerDigests,
  makeRank,
  pageRows,
  Pairing,
  type CacheShape,
  type TensorPlace,
} from '@kvx/core/bytes'
import type { BytesCase, RankCase } from '../bytes/case.ts'
import { lcm } from '../bytes/lcm.ts'
import {
  expectedCopies,
  type Address,
  type Cell,
  type Expected,
  type Meaning,
} from '../bytes/reference.ts'
import { transfer } from '../bytes/transfer.ts'
import { apply, contentOf, fill, type RankMemory } from './memory.ts'

type Side = 'source' | 'destination'

/** What a pair of ranks has of one component. */
interface PairDigests {
  readonly component: string
  readonly layers: Int32Array
  /** Of each layer. */
  readonly digests: Uint8Array
}

/** What is wrong, in words; nothing for a case that is right. */
export function judgeDigests(given: BytesCase): string[] {
  const { shape, prefill, decode } = given
  const whole = wholeCache(shape, given.tokens)
  const expected = expectedOf(given, [...prefill, whole])
  const sources = [...prefill, whole].map(({ regionBytes }, i) =>
    fill(regionBytes, expected.sources[i]!, 2 * i + 2),
  )
  const wholeMemory = sources.at(-1)!
  const memories = decode.map(({ regionBytes }, i) => fill(regionBytes, new Map(), 2 * i + 1))
  const sent = transfer(given)
  for (const { from, to, copies } of sent) apply(copies, sources[from]!, memories[to]!)

  return decode.flatMap((destination, to) => {
    const memory = memories[to]!
    const pairs = sent
      .filter((one) => one.to === to)
      .map(({ from }) => {
        const pairing = new Pairing(shape, prefill[from]!, destination)
        const of = (side: Side, bytes: RankMemory) =>
          sideDigests(given, { pairing, side, pages: sidePages(given, side, from, to), bytes })
        return { from, of, source: of('source', sources[from]!) }
      })
    const landed = () =>
      pairs.map(({ from, of, source }) => ({
        from,
        source,
        destination: of('destination', memory),
      }))
    const name = (from: number) => `prefill rank ${String(from)} and decode rank ${String(to)}`
    const before = landed()
    const unequal = before.flatMap((pair) =>
      differences(pair).map((what) => `${name(pair.from)} differ in ${what}`),
    )
    const sum = totals(before.flatMap((pair) => pair.destination))
    const all = sideDigests(given, {
      pairing: new Pairing(shape, whole, destination),
      side: 'source',
      pages: whole.pages,
      bytes: wholeMemory,
    })
    return [
      ...unequal,
      ...unlike(sum, totals(all), `decode rank ${String(to)} and a rank that holds everything`),
      ...unlike(sum, plainTotals(expected, to), `decode rank ${String(to)} and the cells it needs`),
      ...flips(given, expected, to).flatMap(({ address, where }) => {
        const [region, byte] = [Math.floor(address / 2 ** 40), address % 2 ** 40]
        memory.regions[region]![byte]! ^= 1 << (given.tokens % 8)
        const found = landed().flatMap(differences)
        memory.regions[region]![byte]! ^= 1 << (given.tokens % 8)
        const said = found.join(', ') || 'nothing'
        if (said === where) return []
        return [`a byte of ${where} at decode rank ${String(to)} has changed, and ${said} differs`]
      }),
    ]
  })
}

/** The digests of everything that two ranks share, as one of them has it. */
function sideDigests(
  { tokens, prefix }: BytesCase,
  options: {
    pairing: Pairing
    side: Side
    pages: Readonly<Record<string, readonly number[]>>
    bytes: RankMemory
  },
): PairDigests[] {
  const { pairing, side, pages, bytes } = options
  const prompt = { tokens, prefix }
  return [...pairing.layers.keys()].map((component) => {
    const [first, end] = pairing.pages(component, prompt)[side]
    const all = pages[component] ?? []
    const isState = pairing.component(component).component.addressed === 'request'
    const given = Int32Array.from(isState ? all : all.slice(first, end))
    const { job, layers } = digestJob(pairing, { component, side, prompt, pages: given })
    return { component, layers, digests: layerDigests(layers, digests(job, bytes.memories)) }
  })
}

function sidePages({ prefill, decode }: BytesCase, side: Side, from: number, to: number) {
  return side === 'source' ? prefill[from]!.pages : decode[to]!.pages
}

/** Components and layers in which the two sides of a pair differ. */
function differences(pair: {
  source: readonly PairDigests[]
  destination: readonly PairDigests[]
}): string[] {
  return pair.source.flatMap(({ component, layers, digests: theirs }, i) =>
    differingLayers(layers, theirs, pair.destination[i]!.digests).map((layer) =>
      layerName(component, layer),
    ),
  )
}

function layerName(component: string, layer: number): string {
  return `${component} layer ${String(layer)}`
}

/** Sums by component and layer. */
type Totals = Map<string, Uint8Array>

function totals(list: readonly PairDigests[]): Totals {
  const sums: Totals = new Map()
  for (const { component, layers, digests: values } of list) {
    for (const [i, layer] of [...new Set(layers)].entries()) {
      addTo(sums, layerName(component, layer), values.slice(16 * i, 16 * i + 16))
    }
  }
  return sums
}

function addTo(sums: Totals, name: string, digest: Uint8Array): void {
  sums.set(name, addDigests(sums.get(name) ?? new Uint8Array(16), digest))
}

function unlike(a: Totals, b: Totals, whose: string): string[] {
  const none = '0'.repeat(32)
  const shown = (sums: Totals, name: string) =>
    Buffer.from(sums.get(name) ?? []).toString('hex') || none
  return [...new Set([...a.keys(), ...b.keys()])]
    .filter((name) => shown(a, name) !== shown(b, name))
    .map((name) => `${whose} do not have the same digest of ${name}`)
}

/** The sums of what a decode rank needs, cell by cell, from what the reference says of it. */
function plainTotals({ destinations, locate }: Expected, to: number): Totals {
  const sums: Totals = new Map()
  const cells = new Map<Meaning, Cell>()
  for (const meaning of destinations[to]!.needed.values()) {
    const cell = locate(meaning)
    cells.set(meaning - cell.byte, cell)
  }
  for (const [begin, { component, tensor, row, unit }] of cells) {
    const { layer, part, unitBytes } = tensor
    const bytes = Uint8Array.from({ length: unitBytes }, (_, byte) => contentOf(begin + byte))
    const key = createHash('sha256')
      .update(JSON.stringify([component, layer, part]))
      .digest()
    const job = {
      pageTokens: 1,
      tensors: Float64Array.of(0, 0, 0, 1, 1, unit, unitBytes, unitBytes, 0, 0, unitBytes),
      keys: BigUint64Array.of(key.readBigUInt64LE()),
      runs: Int32Array.of(0, 0, 1, row),
    }
    const memory = {
      address: 0n,
      bytes: unitBytes,
      kind: 'cpu',
      device: 0,
      view: () => bytes,
    } as const
    addTo(sums, layerName(component, layer), digests(job, [memory]))
  }
  return sums
}

/** A needed byte of each component and layer, and one that nobody needs; what of the digests must change with it. */
function flips({ decode, tokens }: BytesCase, { destinations, locate }: Expected, to: number) {
  const chosen = new Map<string, Address>()
  const { needed, allowed } = destinations[to]!
  let turn = tokens
  for (const [address, meaning] of needed) {
    const { component, tensor } = locate(meaning)
    const where = layerName(component, tensor.layer)
    turn = (turn * 31 + 7) % 1_009
    if (turn % 5 === 0 || !chosen.has(where)) chosen.set(where, address)
  }
  const list = [...chosen].map(([where, address]) => ({ where, address }))
  const isSpare = (address: Address) => !needed.has(address)
  const spare =
    [...allowed.keys()].find(isSpare) ??
    decode[to]!.regionBytes.flatMap((bytes, region) =>
      Array.from({ length: bytes }, (_, i) => region * 2 ** 40 + i),
    ).find(isSpare)
  return spare === undefined ? list : [...list, { where: 'nothing', address: spare }]
}

function expectedOf(
  { shape, decode, tokens, prefix }: BytesCase,
  prefill: readonly RankCase[],
): Expected {
  const wanted = { tokens, prefixTokens: prefix, from: 0, end: tokens, state: true }
  return expectedCopies(shape, prefill, decode, { ...wanted, layers: [0, shape.layers] })
}

/** One rank that holds the whole cache, in pages of a size of its own. */
function wholeCache(shape: CacheShape, tokens: number): RankCase {
  const components: Record<string, { pageTokens?: number; pages: number }> = {}
  const pages: Record<string, number[]> = {}
  const tensors: TensorPlace[] = []
  let base = 0
  for (const { name, addressed, tensors: list } of shape.components) {
    const pageTokens = 2 * list.reduce((size, { tokensPerRow = 1 }) => lcm(size, tokensPerRow), 1)
    const count = addressed === 'request' ? 1 : Math.ceil(tokens / pageTokens)
    const component = addressed === 'request' ? { pages: count } : { pages: count, pageTokens }
    components[name] = component
    pages[name] = Array.from({ length: count }, (_, i) => count - 1 - i)
    for (const tensor of list) {
      const pageBytes = pageRows(component, tensor) * tensor.units * tensor.unitBytes
      const { layer, part } = tensor
      tensors.push({ component: name, layer, part, region: 0, base, pageBytes, order: 'HND' })
      base += count * pageBytes
    }
  }
  const place = { components, tensors }
  return { rank: makeRank(shape.layers), place, regionBytes: [base], pages }
}
