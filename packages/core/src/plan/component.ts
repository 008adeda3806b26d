/** What two ranks share of one component, and the lanes by which its pages become one another. */
import { KvxError } from '@kvx/contract'
import { pageRows, type ComponentPlace, type Place, type TensorPlace } from '../place/place.ts'
import { electedUnits } from '../share/elect.ts'
import { unitsOf, type Range } from '../share/holdings.ts'
import type { Rank } from '../share/rank.ts'
import { heldTokens } from '../share/tokens.ts'
import { tensorName, type ComponentShape, type TensorShape } from '../shape/shape.ts'
import { pairPages, type PagePair, type PageTable, type Side } from './pages.ts'
import { tensorRows, type RowStrip } from './tensor-rows.ts'

/** A rank, and where it keeps its part. */
export interface RankCache {
  readonly rank: Rank
  readonly place: Place
}

export interface PairedComponent {
  readonly component: ComponentShape
  /** Those of which units move, by ascending layer. */
  readonly tensors: readonly SharedTensor[]
  /** Layers of which anything moves, ascending. */
  readonly layers: readonly number[]
  readonly sourcePages: ComponentPlace
  readonly destinationPages: ComponentPlace
  /** Which pages meet; absent for a component that is addressed by request, of which slots meet one to one. */
  readonly table: PageTable | undefined
  readonly kinds: readonly Kind[]
}

/** One way in which two pages overlap, with its lanes, by ascending layer. */
export interface Kind {
  /** Those of the table that overlap so, in its order. */
  readonly pairs: readonly PagePair[]
  /** Number of the first of these pairs that each source page of a period has, and at last how many there are. */
  readonly bySource: Int32Array
  /** Among all lanes of the two ranks. */
  readonly firstLane: number
  /** Layer of each lane, and bytes that it moves for a page. */
  readonly layers: readonly number[]
  readonly bytes: readonly number[]
}

/**
 * Undefined when the source has nothing of this component for the destination.
 *
 * @param lanes to which those of this component are added
 * @throws KvxError `ERR_KVX_PAGE_SIZE_MISMATCH`
 */
export function pairComponent(
  component: ComponentShape,
  source: RankCache,
  destination: RankCache,
  lanes: number[][],
): PairedComponent | undefined {
  const shared = sharedTensors(component, source, destination)
  if (shared.length === 0) return undefined
  const sourcePages = pagesAt(source.place, component.name)
  const destinationPages = pagesAt(destination.place, component.name)
  const layers = [...new Set(shared.map(({ tensor }) => tensor.layer))]
  const paired = { component, tensors: shared, layers, sourcePages, destinationPages }
  if (component.addressed === 'request') {
    const lanesOfSlot = lanesOf({ shared, strips: undefined, paired, lanes })
    return { ...paired, table: undefined, kinds: [{ ...lanesOfSlot, ...pairsOf([], 0) }] }
  }
  const table = pairPages(
    component.name,
    sideOf(source.rank, sourcePages),
    sideOf(destination.rank, destinationPages),
  )
  const alike = new Map<string, PagePair[]>()
  for (const pair of table.pairs) {
    const key = JSON.stringify(pair.strips)
    const known = alike.get(key)
    if (known) known.push(pair)
    else alike.set(key, [pair])
  }
  const kinds = [...alike.values()].map((pairs) => ({
    ...lanesOf({ shared, strips: pairs[0]?.strips, paired, lanes }),
    ...pairsOf(pairs, table.sourcePages),
  }))
  return { ...paired, table, kinds }
}

/** A tensor of which units move, and where both ranks keep it. */
export interface SharedTensor {
  readonly tensor: TensorShape
  readonly units: Range
  readonly source: KeptTensor
  readonly destination: KeptTensor
}

/** Where a rank keeps a tensor, and which of its units. */
interface KeptTensor {
  readonly place: TensorPlace
  readonly held: Range
}

/** By ascending layer, and then by part: in which order the two hosts list them must not matter. */
function sharedTensors(
  component: ComponentShape,
  source: RankCache,
  destination: RankCache,
): SharedTensor[] {
  const [from, to] = [tensorsOf(source.place), tensorsOf(destination.place)]
  const shared = component.tensors.flatMap((tensor): SharedTensor[] => {
    const units = electedUnits(source.rank, destination.rank, component, tensor)
    if (!units) return []
    const name = tensorName(component.name, tensor)
    const [mine, theirs] = [from.get(name), to.get(name)]
    if (!mine || !theirs) {
      throw new KvxError('ERR_KVX_INTERNAL', `The place of ${name} is not known.`)
    }
    return [
      {
        tensor,
        units,
        source: { place: mine, held: unitsOf(source.rank, tensor.units) },
        destination: { place: theirs, held: unitsOf(destination.rank, tensor.units) },
      },
    ]
  })
  return shared.sort(({ tensor: a }, { tensor: b }) =>
    a.layer === b.layer ? compareText(a.part, b.part) : a.layer - b.layer,
  )
}

function lanesOf(options: {
  shared: readonly SharedTensor[]
  strips: PagePair['strips'] | undefined
  paired: { sourcePages: ComponentPlace; destinationPages: ComponentPlace }
  lanes: number[][]
}): Omit<Kind, 'pairs' | 'bySource'> {
  const { shared, strips, paired, lanes } = options
  const kind = { firstLane: lanes.length, layers: [] as number[], bytes: [] as number[] }
  for (const { tensor, units, source, destination } of shared) {
    const rows = tensorRows({
      tensor,
      units,
      strips: strips ? inRows(strips, tensor.tokensPerRow ?? 1) : wholeSlot(tensor),
      source: { ...source, rows: pageRows(paired.sourcePages, tensor) },
      destination: { ...destination, rows: pageRows(paired.destinationPages, tensor) },
    })
    for (const row of rows) {
      lanes.push(row)
      kind.layers.push(tensor.layer)
      kind.bytes.push((row[6] ?? 0) * (row[7] ?? 0))
    }
  }
  return kind
}

function inRows(strips: PagePair['strips'], tokens: number): RowStrip[] {
  return strips.map((strip) => ({
    source: strip.source / tokens,
    destination: strip.destination / tokens,
    run: strip.run / tokens,
    times: strip.times,
    sourceStride: strip.sourceStride / tokens,
    destinationStride: strip.destinationStride / tokens,
  }))
}

function wholeSlot({ rows = 1 }: TensorShape): RowStrip[] {
  return [{ source: 0, destination: 0, run: rows, times: 1, sourceStride: 0, destinationStride: 0 }]
}

/** How a rank's pages divide the tokens of a prompt; where it begins does not matter here. */
function sideOf(rank: Rank, { pageTokens = 1 }: ComponentPlace): Side {
  return { pageTokens, held: heldTokens(rank, 0, pageTokens) }
}

function pagesAt(place: Place, component: string): ComponentPlace {
  const found = Object.hasOwn(place.components, component) ? place.components[component] : undefined
  if (found) return found
  throw new KvxError('ERR_KVX_INTERNAL', `The pages of the component '${component}' are not known.`)
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : Number(a > b)
}

function tensorsOf({ tensors }: Place): Map<string, TensorPlace> {
  return new Map(tensors.map((tensor) => [tensorName(tensor.component, tensor), tensor]))
}

/** @param pairs by source page */
function pairsOf(
  pairs: readonly PagePair[],
  sourcePages: number,
): Pick<Kind, 'pairs' | 'bySource'> {
  const bySource = new Int32Array(sourcePages + 1)
  for (const { source } of pairs) bySource[source + 1]! += 1
  for (let page = 0; page < sourcePages; page++) bySource[page + 1]! += bySource[page]!
  return { pairs, bySource }
}
