/**
 * What one prefill rank sends to one decode rank, byte by byte: computed once for the two, so that a chunk only has to say
 * which pages. Both sides compute the same.
 */
import { KvxError, type TransferPlan } from '@kvx/contract'
import type { CacheShape } from '../shape/shape.ts'
import type { Range } from '../share/holdings.ts'
import { heldTokens, tokenAt, type Held } from '../share/tokens.ts'
import { digestTensors, type DigestTensors, type PairSide } from './digest/tensors.ts'
import { GroupList } from './group-list.ts'
import { pairComponent, type Kind, type PairedComponent, type RankCache } from './component.ts'
import { countMeetings, countShared, sharedTokens } from './pages.ts'
import { neededTokens, pagesWith, type Prompt } from './span.ts'

/** Pages of a component that is addressed by tokens, which move. */
export interface TokenPart {
  readonly component: string
  /** Half-open range of layers. Default: all. */
  readonly layers?: Range | undefined
  readonly prompt: Prompt
  /** Number of the first source page among those that prefill's rank has of this prompt. */
  readonly first: number
  readonly source: Int32Array
  /** All pages that decode has provided, in the order of the prompt. */
  readonly destination: Int32Array
}

/** Slots of a component that is addressed by request. */
export interface RequestPart {
  readonly component: string
  readonly layers?: Range | undefined
  readonly source: Int32Array
  readonly destination: Int32Array
}

/** What a part moves. */
export interface Moved {
  /** Tokens that decode needs, or slots, times the layers of which they move. */
  readonly units: number
  /** With what else lies in the same pages. */
  readonly bytes: number
}

/** What of a component matters for a prompt. */
export interface Spans {
  /** Tokens of the prompt that the ranks hold. */
  readonly sourceHeld: Held
  readonly destinationHeld: Held
  /** Pages by their numbers among those that the rank has of the prompt. */
  readonly source: Range
  readonly destination: Range
  /** Number of the first of these, counted as if the rank had the pages of the whole prompt. */
  readonly sourceOffset: number
  readonly destinationOffset: number
  /** Tokens between which both ranks hold all that moves. */
  readonly shared: Range
  /** The first token that decode needs, of those that it holds. */
  readonly wanted: number
}

export class Pairing {
  /** As `TransferPlan.lanes`. */
  readonly lanes: Float64Array
  /** Layers of which anything moves, ascending, by component. A component of which nothing moves is absent. */
  readonly layers: ReadonlyMap<string, readonly number[]>
  readonly #source: RankCache
  readonly #destination: RankCache
  readonly #components = new Map<string, PairedComponent>()
  readonly #digestTensors = new Map<string, Record<PairSide, DigestTensors>>()

  /** @throws KvxError `ERR_KVX_PAGE_SIZE_MISMATCH` */
  constructor(shape: CacheShape, source: RankCache, destination: RankCache) {
    this.#source = source
    this.#destination = destination
    const rows: number[][] = []
    for (const component of shape.components) {
      const paired = pairComponent(component, source, destination, rows)
      if (paired) this.#components.set(component.name, paired)
    }
    this.lanes = Float64Array.from(rows.flat())
    this.layers = new Map([...this.#components].map(([name, { layers }]) => [name, layers]))
  }

  /**
   * Pages that each rank needs of a prompt, by their numbers among those that the rank has of it: prefill's are what it
   * may be asked to write, decode's what it provides.
   * @throws KvxError `ERR_KVX_PLAN_INVALID`
   */
  pages(component: string, prompt: Prompt): { source: Range; destination: Range } {
    const { source, destination } = this.spans(this.component(component), prompt)
    return { source, destination }
  }

  /** The first token of a component that decode's rank needs, of those that it holds; the length of the prompt for none. */
  firstNeeded(component: string, prompt: Prompt): number {
    return this.spans(this.component(component), prompt).wanted
  }

  /** How many pages, in the order of the prompt, the source has of a component that is addressed by tokens. */
  sourcePages(component: string, { tokens }: Prompt): number {
    const { pageTokens = 1 } = this.component(component).sourcePages
    return pagesWith(heldTokens(this.#source.rank, tokens, pageTokens), pageTokens, [0, tokens])[1]
  }

  /** What a part would move: as `Moved.units`, without the pages. */
  units(part: Omit<TokenPart, 'source' | 'destination'> & { readonly count: number }): number {
    const paired = this.component(part.component)
    const { table } = paired
    const layers = layersWithin(paired.layers, part.layers)
    if (!table) return part.count * layers
    const { shared } = this.spans(paired, part.prompt)
    const { pageTokens = 1 } = paired.sourcePages
    const held = heldTokens(this.#source.rank, part.prompt.tokens, pageTokens)
    const tokens: Range = [
      Math.max(shared[0], tokenAt(held, part.first * pageTokens)),
      Math.min(shared[1], tokenAt(held, (part.first + part.count) * pageTokens)),
    ]
    return countShared(table, tokens) * layers
  }

  /**
   * What the two ranks share of a component.
   * @throws KvxError `ERR_KVX_PLAN_INVALID`
   */
  component(name: string): PairedComponent {
    const paired = this.#components.get(name)
    if (paired) return paired
    throw invalid(`The two ranks share no tensor of the component '${name}'.`)
  }

  /**
   * The part of a digest job that is the same for all requests. Computed when it is first wanted.
   * @throws KvxError `ERR_KVX_PLAN_INVALID`
   */
  digestTensors(component: string, side: PairSide): DigestTensors {
    let both = this.#digestTensors.get(component)
    if (!both) {
      const paired = this.component(component)
      both = {
        source: digestTensors(paired, 'source'),
        destination: digestTensors(paired, 'destination'),
      }
      this.#digestTensors.set(component, both)
    }
    return both[side]
  }

  /** What of a component matters for a prompt. */
  spans(
    {
      component,
      sourcePages,
      destinationPages,
    }: Pick<PairedComponent, 'component' | 'sourcePages' | 'destinationPages'>,
    prompt: Prompt,
  ): Spans {
    const [sourceTokens, destinationTokens] = [sourcePages, destinationPages].map(
      ({ pageTokens = 1 }) => pageTokens,
    ) as [number, number]
    const source = heldTokens(this.#source.rank, prompt.tokens, sourceTokens)
    const destination = heldTokens(this.#destination.rank, prompt.tokens, destinationTokens)
    const wanted = neededTokens(prompt, component.window, destination, destinationTokens)
    return {
      wanted: wanted[0],
      sourceHeld: source,
      destinationHeld: destination,
      source: pagesWith(source, sourceTokens, wanted),
      destination: pagesWith(destination, destinationTokens, wanted),
      sourceOffset: source.first / sourceTokens,
      destinationOffset: destination.first / destinationTokens,
      shared: [
        Math.max(wanted[0], source.first, destination.first),
        Math.min(source.end, destination.end),
      ],
    }
  }

  /** What all parts of a request together move, however it is cut into parts: each page moves once. */
  expected(component: string, { prompt, slots }: { prompt: Prompt; slots: number }): Moved {
    const { table, kinds, layers, ...paired } = this.component(component)
    const shared = table && this.spans(paired, prompt).shared
    const bytes = kinds.reduce((sum, kind) => {
      const meetings = table && shared ? countMeetings(table, kind.pairs, shared) : slots
      return sum + meetings * kind.bytes.reduce((all, each) => all + each, 0)
    }, 0)
    return {
      units: (table && shared ? countShared(table, shared) : slots) * layers.length,
      bytes,
    }
  }

  /**
   * @throws KvxError `ERR_KVX_PLAN_INVALID` for a component of which the ranks share nothing, pages that do not exist, or
   *   pages that decode has not provided
   */
  plan(parts: readonly (TokenPart | RequestPart)[]): { plan: TransferPlan; moved: Moved[] } {
    const groups = new GroupList(parts.reduce((sum, { source }) => sum + source.length, 0))
    const blocks: number[] = []
    const moved = parts.map((part) => {
      const paired = this.component(part.component)
      if ('prompt' in part) {
        return this.#planTokens(paired, part, groups, blocks)
      }
      return this.#planSlots(paired, part, groups, blocks)
    })
    return {
      plan: { lanes: this.lanes, groups: groups.rows(), blocks: Int32Array.from(blocks) },
      moved,
    }
  }

  #planTokens(
    paired: PairedComponent,
    part: TokenPart,
    groups: GroupList,
    blocks: number[],
  ): Moved {
    const { table } = paired
    if (!table) throw invalid(`The component '${part.component}' is addressed by request.`)
    const layers = layersWithin(paired.layers, part.layers)
    if (layers === 0) return { units: 0, bytes: 0 }
    const spans = this.spans(paired, part.prompt)
    const [from, to] = spans.shared
    const at = spans.sourceOffset + part.first
    const firstTarget = spans.destinationOffset + spans.destination[0]
    let [tokens, bytes] = [0, 0]
    for (const kind of paired.kinds) {
      const { pairs, bySource } = kind
      const firstGroup = groups.length
      let pages = 0
      // The source page within its period, the first token of that, and the target that its pages count from.
      let inPeriod = at % table.sourcePages
      let base = ((at - inPeriod) / table.sourcePages) * table.period
      let target = ((at - inPeriod) / table.sourcePages) * table.destinationPages - firstTarget
      groups.cut()
      for (const page of part.source) {
        for (let p = bySource[inPeriod]!; p < bySource[inPeriod + 1]!; p++) {
          const pair = pairs[p]!
          const shared = sharedTokens(pair, table.cell, from - base, to - base)
          if (shared === 0) continue
          groups.add(
            existing('source', paired, page),
            existing('destination', paired, provided(part, target + pair.destination)),
          )
          tokens += shared
          pages++
        }
        if (++inPeriod < table.sourcePages) continue
        inPeriod = 0
        base += table.period
        target += table.destinationPages
      }
      const perPage = addBlock(kind, part.layers, firstGroup, groups.length, blocks)
      bytes += pages * perPage
    }
    return { units: tokens * layers, bytes }
  }

  #planSlots(
    paired: PairedComponent,
    part: RequestPart,
    groups: GroupList,
    blocks: number[],
  ): Moved {
    const { component, source, destination } = part
    const [kind] = paired.kinds
    if (paired.table || !kind) throw invalid(`The component '${component}' is addressed by tokens.`)
    if (source.length !== destination.length) {
      throw invalid(
        `Prefill has ${String(source.length)} slots of '${component}' for the request, decode ${String(destination.length)}.`,
      )
    }
    const firstGroup = groups.length
    groups.cut()
    for (const [i, slot] of source.entries()) {
      groups.add(
        existing('source', paired, slot),
        existing('destination', paired, destination[i] ?? -1),
      )
    }
    const perSlot = addBlock(kind, part.layers, firstGroup, groups.length, blocks)
    return {
      units: source.length * layersWithin(paired.layers, part.layers),
      bytes: source.length * perSlot,
    }
  }
}

/** Adds the block of some groups with the lanes of a kind, and answers how many bytes these move for a page. */
function addBlock(
  kind: Kind,
  layers: Range | undefined,
  firstGroup: number,
  endGroup: number,
  blocks: number[],
): number {
  let [first, end] = [0, kind.layers.length]
  if (layers) {
    while (first < end && (kind.layers[first] ?? 0) < layers[0]) first++
    while (end > first && (kind.layers[end - 1] ?? 0) >= layers[1]) end--
  }
  if (firstGroup < endGroup && first < end) {
    blocks.push(firstGroup, endGroup, kind.firstLane + first, kind.firstLane + end)
  }
  let bytes = 0
  for (let lane = first; lane < end; lane++) bytes += kind.bytes[lane] ?? 0
  return bytes
}

function layersWithin(layers: readonly number[], range: Range | undefined): number {
  if (!range) return layers.length
  return layers.filter((layer) => layer >= range[0] && layer < range[1]).length
}

function provided({ component, destination }: TokenPart, page: number): number {
  const found = destination[page]
  if (found !== undefined) return found
  throw invalid(
    `Decode has provided ${String(destination.length)} pages of '${component}', and the one at position ${String(page)} is missing.`,
  )
}

/** Pages that do not exist could lie in another tensor of the same region, where native code sees nothing wrong. */
export function existing(side: PairSide, paired: PairedComponent, page: number): number {
  const { pages } = side === 'source' ? paired.sourcePages : paired.destinationPages
  if (page >= 0 && page < pages) return page
  throw invalid(
    `The ${side} page ${String(page)} does not exist: '${paired.component.name}' has ${String(pages)} there.`,
  )
}

export function invalid(text: string): KvxError {
  return new KvxError('ERR_KVX_PLAN_INVALID', text)
}
