/**
 * Which bytes go where, as slowly and plainly as it can be said: byte by byte, token by token, unit by unit. It is what
 * the fast way is compared with, so it shares nothing with it but the types of what is described.
 *
 * Imagine the cache of one request undivided: all tensors one after another, each as `[row][unit][byte]`. Every byte of
 * it has one number there, its logical number. A rank keeps some of these bytes somewhere in its memory. Where two ranks
 * keep the byte of the same logical number, one may send it to the other.
 */
import type {
  CacheShape,
  ComponentShape,
  PageOrder,
  Place,
  Rank,
  TensorPlace,
  TensorShape,
} from '@kvx/core/bytes'

/** One rank's part in a request. */
export interface Party {
  readonly rank: Rank
  readonly place: Place
  /**
   * By component. Entry i is the page that holds the tokens i · pageTokens and following of those that the rank holds
   * (for a component that is addressed by request: slot i of the request), or undefined where the request has none.
   */
  readonly pages: Readonly<Record<string, readonly (number | undefined)[]>>
}

/** What of a request has to be moved. */
export interface Wanted {
  /** Tokens of the prompt. */
  readonly tokens: number
  /** Tokens that decode has already. */
  readonly prefixTokens: number
  /** Tokens of this chunk, exclusive of `end`. */
  readonly from: number
  readonly end: number
  /** Exclusive of the second. */
  readonly layers: readonly [number, number]
  /** Also the components that are addressed by request. */
  readonly state: boolean
}

/** A run of bytes from one rank's memory to another's. Ranks are given by their position in the lists. */
export interface Move {
  readonly fromRank: number
  readonly sourceRegion: number
  readonly sourceByte: number
  readonly toRank: number
  readonly destinationRegion: number
  readonly destinationByte: number
  readonly length: number
}

/** A logical number, or `rubbish` for a byte in a page of the request that stands for no token of it. */
export type Meaning = number
export const rubbish = -1

/** A byte of a rank's memory: region and byte in one number. */
export type Address = number
const regionBytes = 2 ** 40

export function addressOf(region: number, byte: number): Address {
  return region * regionBytes + byte
}

export interface Expected {
  /** What each prefill rank has in the pages of the request. */
  readonly sources: readonly ReadonlyMap<Address, Meaning>[]
  readonly destinations: readonly Destination[]
  /** Positions of the prefill ranks that hold a logical number. */
  readonly holders: ReadonlyMap<number, readonly number[]>
  /** What a logical number stands for. */
  readonly locate: (logical: number) => Cell
  /** The same in words. */
  readonly explain: (logical: number) => string
}

/** A unit of a row of the undivided cache, and one of its bytes. */
export interface Cell {
  readonly component: string
  readonly tensor: TensorShape
  readonly row: number
  readonly unit: number
  readonly byte: number
}

/** What has to arrive at one decode rank. */
export interface Destination {
  /** Bytes that have to be written, each once. */
  readonly needed: ReadonlyMap<Address, Meaning>
  /**
   * Bytes that may be written beside them: the rest of pages with a token that is wanted. What they mean must not
   * change, so what is written there must be what belongs there; rubbish may become other rubbish.
   */
  readonly allowed: ReadonlyMap<Address, Meaning>
}

/** @throws Error when a place has no tensor that its rank must hold, or two at the same address */
export function expectedCopies(
  shape: CacheShape,
  prefill: readonly Party[],
  decode: readonly Party[],
  wanted: Wanted,
): Expected {
  const sources = prefill.map((party) => {
    const meanings = new Map<Address, Meaning>()
    for (const { bytes } of heldTensors(shape, party, wanted.tokens))
      for (const { address, meaning } of bytes) put(meanings, address, meaning)
    return meanings
  })
  const holders = new Map<number, number[]>()
  for (const [i, meanings] of sources.entries()) {
    for (const meaning of meanings.values()) {
      if (meaning === rubbish) continue
      const list = holders.get(meaning) ?? []
      list.push(i)
      holders.set(meaning, list)
    }
  }
  return {
    sources,
    destinations: decode.map((party) => destinationOf(shape, party, wanted)),
    holders,
    locate: (logical) => locate(shape, wanted.tokens, logical),
    explain: (logical) => explain(shape, wanted.tokens, logical),
  }
}

function destinationOf(shape: CacheShape, party: Party, wanted: Wanted): Destination {
  const needed = new Map<Address, Meaning>()
  const allowed = new Map<Address, Meaning>()
  const [firstLayer, endLayer] = wanted.layers
  for (const { component, tensor, bytes } of heldTensors(shape, party, wanted.tokens)) {
    if (tensor.layer < firstLayer || tensor.layer >= endLayer) continue
    if (component.addressed === 'request') {
      if (wanted.state) for (const { address, meaning } of bytes) put(needed, address, meaning)
      continue
    }
    const first = Math.max(wanted.from, firstNeeded(component, party, wanted))
    const isWanted = (token: number) => token >= first && token < wanted.end
    for (const { address, meaning, row } of bytes) {
      const last = row.tokens.at(-1)
      if (last !== undefined && isWanted(last)) put(needed, address, meaning)
      else if (row.tokensOfPage.some(isWanted)) put(allowed, address, meaning)
    }
  }
  return { needed, allowed }
}

/**
 * The first token that a decode rank needs of a component: those that it has are not needed, nor those before the window,
 * except that the page with the first token of the window is needed from its beginning.
 */
export function firstNeeded(component: ComponentShape, party: Party, wanted: Wanted): number {
  const { tokens, prefixTokens } = wanted
  const { window } = component
  if (window === undefined) return prefixTokens
  const pageTokens = pageTokensOf(component, party.place)
  const held = heldTokens(party.rank, tokens, pageTokens)
  const first = held.findIndex((token) => token >= tokens - window)
  if (first < 0) return tokens
  const startOfPage = held[Math.floor(first / pageTokens) * pageTokens] ?? 0
  return Math.max(prefixTokens, startOfPage)
}

/** A tensor that a rank holds, and every byte of it in the pages, or slots, of the request. */
interface HeldTensor {
  readonly component: ComponentShape
  readonly tensor: TensorShape
  readonly bytes: readonly Byte[]
}

interface Byte {
  readonly address: Address
  readonly meaning: Meaning
  readonly row: Row
}

function heldTensors(shape: CacheShape, party: Party, tokens: number): HeldTensor[] {
  const { rank, place, pages } = party
  const firstLayer = rank.stages[rank.pp] ?? 0
  const endLayer = rank.stages[rank.pp + 1] ?? 0
  const list: HeldTensor[] = []
  for (const component of shape.components) {
    for (const tensor of component.tensors) {
      if (tensor.layer < firstLayer || tensor.layer >= endLayer) continue
      const where = placeOf(place, component, tensor)
      const begin = beginOf(shape, tokens, tensor)
      const units = unitsOf(rank, tensor)
      const bytes: Byte[] = []
      for (const [ordinal, page] of (pages[component.name] ?? []).entries()) {
        if (page === undefined) continue
        if (page >= (place.components[component.name]?.pages ?? 0))
          throw new Error(`${component.name} has no page ${String(page)}`)
        const rows = rowsOf(component, tensor, party, ordinal, tokens)
        for (const [localRow, row] of rows.entries()) {
          for (const [localUnit, unit] of units.entries()) {
            for (let byte = 0; byte < tensor.unitBytes; byte++) {
              const local = { row: localRow, unit: localUnit, byte }
              const inPage = offsetInPage(where.order, tensor, local, {
                rows: rows.length,
                units: units.length,
              })
              const address = addressOf(where.region, where.base + page * where.pageBytes + inPage)
              const meaning =
                row.logical === undefined
                  ? rubbish
                  : begin + (row.logical * tensor.units + unit) * tensor.unitBytes + byte
              bytes.push({ address, meaning, row })
            }
          }
        }
      }
      list.push({ component, tensor, bytes })
    }
  }
  return list
}

/** One row of a page or slot. */
interface Row {
  /** Which row of the undivided tensor it is; undefined behind the last token. */
  readonly logical: number | undefined
  /** Tokens of the prompt that it is for. When the last of them is computed it is complete. */
  readonly tokens: readonly number[]
  /** Tokens of the prompt in its page. */
  readonly tokensOfPage: readonly number[]
}

/** The rows of a page or slot of the request, in their order. */
function rowsOf(
  component: ComponentShape,
  tensor: TensorShape,
  { rank, place }: Party,
  ordinal: number,
  tokens: number,
): Row[] {
  const rows: Row[] = []
  if (component.addressed === 'request') {
    if (ordinal >= mostSlots) throw new Error(`a request with more than ${String(mostSlots)} slots`)
    const count = tensor.rows ?? 1
    for (let i = 0; i < count; i++)
      rows.push({ logical: ordinal * count + i, tokens: [], tokensOfPage: [] })
    return rows
  }
  const { tokensPerRow = 1 } = tensor
  const pageTokens = pageTokensOf(component, place)
  const held = heldTokens(rank, tokens, pageTokens)
  const tokensOfPage = held.slice(ordinal * pageTokens, (ordinal + 1) * pageTokens)
  for (let i = 0; i < pageTokens / tokensPerRow; i++) {
    const ofRow = tokensOfPage.slice(i * tokensPerRow, (i + 1) * tokensPerRow)
    const logical = ofRow.map((token) => Math.floor(token / tokensPerRow))
    if (new Set(logical).size > 1)
      throw new Error(`a row of ${component.name} would be for tokens that share no row`)
    rows.push({ logical: logical[0], tokens: ofRow, tokensOfPage })
  }
  return rows
}

/** The tokens of a prompt that a rank holds, in the order in which its pages hold them. */
export function heldTokens(rank: Rank, tokens: number, pageTokens: number): number[] {
  const { context, cp, cpSize } = rank
  const held: number[] = []
  // The pages of the prompt, as evenly as they can be dealt out, the first ranks having one more.
  const pages = Math.ceil(tokens / pageTokens)
  const each = Math.floor(pages / cpSize)
  const more = pages % cpSize
  const firstPage = cp * each + Math.min(cp, more)
  const endPage = firstPage + each + (cp < more ? 1 : 0)
  for (let token = 0; token < tokens; token++) {
    const page = Math.floor(token / pageTokens)
    if (context === 'all') held.push(token)
    else if (context === 'contiguous') {
      if (page >= firstPage && page < endPage) held.push(token)
    } else if (Math.floor(token / context.interleave) % cpSize === cp) held.push(token)
  }
  return held
}

/** The units of a tensor that a rank holds. With more ranks than units several hold the same. */
export function unitsOf({ tp, tpSize }: Rank, { units }: Pick<TensorShape, 'units'>): number[] {
  const first = Math.floor((tp * units) / tpSize)
  const end = tpSize >= units ? first + 1 : Math.floor(((tp + 1) * units) / tpSize)
  const list: number[] = []
  for (let unit = first; unit < end; unit++) list.push(unit)
  return list
}

/** Where in a page a byte lies, by its row and unit there, of so many. */
function offsetInPage(
  order: PageOrder,
  { unitBytes, elementBytes }: TensorShape,
  { row, unit, byte }: { row: number; unit: number; byte: number },
  { rows, units }: { rows: number; units: number },
): number {
  switch (order) {
    case 'NHD':
      return (row * units + unit) * unitBytes + byte
    case 'HND':
      return (unit * rows + row) * unitBytes + byte
    case 'HDN': {
      if (elementBytes === undefined) throw new Error('HDN needs elementBytes')
      const element = Math.floor(byte / elementBytes)
      const elements = unitBytes / elementBytes
      return ((unit * elements + element) * rows + row) * elementBytes + (byte % elementBytes)
    }
  }
}

function placeOf(place: Place, component: ComponentShape, tensor: TensorShape): TensorPlace {
  for (const where of place.tensors)
    if (
      where.component === component.name &&
      where.layer === tensor.layer &&
      where.part === tensor.part
    )
      return where
  throw new Error(`no place of ${component.name} layer ${String(tensor.layer)} ${tensor.part}`)
}

function pageTokensOf({ name }: ComponentShape, place: Place): number {
  const pageTokens = place.components[name]?.pageTokens
  if (pageTokens === undefined) throw new Error(`no pageTokens of ${name}`)
  return pageTokens
}

// The undivided cache

/** More than any request has slots: the rows of a tensor that is addressed by request begin so far apart at least. */
const mostSlots = 64

/** Where a tensor begins in the undivided cache. */
function beginOf(shape: CacheShape, tokens: number, wanted: TensorShape): number {
  let begin = 0
  for (const component of shape.components) {
    for (const tensor of component.tensors) {
      if (tensor === wanted) return begin
      const rows =
        component.addressed === 'request'
          ? mostSlots * (tensor.rows ?? 1)
          : Math.ceil(tokens / (tensor.tokensPerRow ?? 1))
      begin += rows * tensor.units * tensor.unitBytes
    }
  }
  throw new Error('no tensor of the shape')
}

function locate(shape: CacheShape, tokens: number, logical: number): Cell {
  let found: Cell | undefined
  for (const { name, tensors } of shape.components) {
    for (const tensor of tensors) {
      const rest = logical - beginOf(shape, tokens, tensor)
      if (rest < 0) continue
      const cell = Math.floor(rest / tensor.unitBytes)
      found = {
        component: name,
        tensor,
        row: Math.floor(cell / tensor.units),
        unit: cell % tensor.units,
        byte: rest % tensor.unitBytes,
      }
    }
  }
  if (!found) throw new Error(`no byte of the cache has the number ${String(logical)}`)
  return found
}

function explain(shape: CacheShape, tokens: number, logical: number): string {
  if (logical === rubbish) return 'rubbish'
  const { component, tensor, row, unit, byte } = locate(shape, tokens, logical)
  return `${component} layer ${String(tensor.layer)} ${tensor.part}, row ${String(row)}, unit ${String(unit)}, byte ${String(byte)}`
}

// The judgement

/** What is wrong with moves, in words; nothing, when they do what is expected. */
export function verify(moves: readonly Move[], expected: Expected): string[] {
  const wrong: string[] = []
  const written = expected.destinations.map(() => new Map<Address, number>())
  for (const move of moves) {
    const source = expected.sources[move.fromRank]
    const destination = expected.destinations[move.toRank]
    if (!source || !destination) {
      wrong.push(
        `there is no prefill rank ${String(move.fromRank)}, or no decode rank ${String(move.toRank)}`,
      )
      continue
    }
    for (let i = 0; i < move.length; i++) {
      const at = addressOf(move.destinationRegion, move.destinationByte + i)
      const read = addressOf(move.sourceRegion, move.sourceByte + i)
      const there = `decode rank ${String(move.toRank)}, ${text(at)}`
      const here = `prefill rank ${String(move.fromRank)}, ${text(read)}`
      const is = source.get(read)
      const should = destination.needed.get(at) ?? destination.allowed.get(at)
      if (is === undefined) {
        wrong.push(`outside: ${here} belongs to no page of the request`)
      } else if (should === undefined) {
        wrong.push(`outside: ${there} must not be written`)
      } else if (should !== rubbish && is !== should) {
        wrong.push(
          `wrong byte: ${there} is ${expected.explain(should)}; ${here} is ${expected.explain(is)}`,
        )
      }
      const times = written[move.toRank]!
      times.set(at, (times.get(at) ?? 0) + 1)
    }
  }
  for (const [i, { needed }] of expected.destinations.entries()) {
    for (const [at, meaning] of needed) {
      const times = written[i]!.get(at) ?? 0
      if (times === 1) continue
      const what = times === 0 ? 'missing' : `written ${String(times)} times`
      wrong.push(`${what}: decode rank ${String(i)}, ${text(at)}: ${expected.explain(meaning)}`)
    }
  }
  return wrong
}

/** Needed bytes that no prefill rank holds, in words: where there are any, prefill must be refused. */
export function unserved({ destinations, holders, explain: say }: Expected): string[] {
  return destinations.flatMap(({ needed }, i) =>
    [...needed.values()]
      .filter((meaning) => !holders.has(meaning))
      .map((meaning) => `decode rank ${String(i)}: ${say(meaning)}`),
  )
}

function put(meanings: Map<Address, Meaning>, address: Address, meaning: Meaning): void {
  if (meanings.has(address)) throw new Error(`two tensors lie at ${text(address)}`)
  meanings.set(address, meaning)
}

function text(address: Address): string {
  return `region ${String(Math.floor(address / regionBytes))} byte ${String(address % regionBytes)}`
}
