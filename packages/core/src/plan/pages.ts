/**
 * Which tokens of a source page lie where in which destination page. Pages of both sides repeat after a period of the
 * prompt's tokens, so one table of pairs of pages serves prompts of any length.
 */
import { KvxError } from '@kvx/contract'
import { position, type Held } from '../share/tokens.ts'

/** One side: tokens of a page, and which tokens of the prompt lie in its pages. */
export interface Side {
  readonly pageTokens: number
  readonly held: Pick<Held, 'at' | 'of' | 'stretch'>
}

/** `times` runs of `run` tokens, by their positions in the two pages; strides in tokens, from run to run. */
export interface Strip {
  readonly source: number
  readonly destination: number
  readonly run: number
  readonly times: number
  readonly sourceStride: number
  readonly destinationStride: number
}

/** A source page and a destination page of a period that share tokens. */
export interface PagePair {
  /** Pages within the period. */
  readonly source: number
  readonly destination: number
  /** First tokens of the cells that they share, ascending, within the period. */
  readonly cells: readonly number[]
  /** Tokens that they share, all of which lie in this half-open range of the period. */
  readonly tokens: number
  readonly first: number
  readonly end: number
  readonly strips: readonly Strip[]
}

export interface PageTable {
  /** Tokens that always lie together, in pages of either side. */
  readonly cell: number
  /** Tokens of a period, and the pages of each side in it. */
  readonly period: number
  readonly sourcePages: number
  readonly destinationPages: number
  /** By source page, then by destination page. */
  readonly pairs: readonly PagePair[]
}

/** A longer period would take a table of this many entries, and pages so small that nobody has them. */
const longestTable = 65_536

/**
 * @param component whose pages they are
 * @throws KvxError `ERR_KVX_PAGE_SIZE_MISMATCH` when the two need a table that is too long
 */
export function pairPages(component: string, source: Side, destination: Side): PageTable {
  const cell = [source, destination].reduce(
    (size, { pageTokens, held }) =>
      gcd(size, held.of === 1 ? pageTokens : gcd(pageTokens, held.stretch)),
    0,
  )
  const period = lcm(spanOf(source), spanOf(destination))
  if (period / cell > longestTable) {
    throw new KvxError(
      'ERR_KVX_PAGE_SIZE_MISMATCH',
      `The pages of '${component}' do not fit: prefill has pages of ${describe(source)}, decode has pages of ${describe(destination)}. These begin at the same token only every ${String(period)} tokens; page sizes of which one divides the other would fit.`,
      { phase: 'hello' },
    )
  }
  const cells = new Map<string, Cell[]>()
  for (let token = 0; token < period; token += cell) {
    if (!holds(source, token) || !holds(destination, token)) continue
    const from = place(source, token, period)
    const to = place(destination, token, period)
    const key = `${String(from.page)}/${String(to.page)}`
    const entry = { token, from, to }
    const known = cells.get(key)
    if (known) known.push(entry)
    else cells.set(key, [entry])
  }
  const pairs = [...cells.values()].map((list): PagePair => {
    const [head] = list as [Cell]
    const last = list.at(-1) ?? head
    return {
      source: head.from.page,
      destination: head.to.page,
      cells: list.map(({ token }) => token),
      ...{ tokens: list.length * cell, first: head.token, end: last.token + cell },
      strips: stripsOf(list, cell),
    }
  })
  pairs.sort((a, b) => a.source - b.source || a.destination - b.destination)
  return {
    cell,
    period,
    sourcePages: pagesOf(source, period),
    destinationPages: pagesOf(destination, period),
    pairs,
  }
}

/** How many tokens from `first` to `end` of the period two pages share, of cells of `cell` tokens. */
export function sharedTokens(pair: PagePair, cell: number, first: number, end: number): number {
  if (pair.first >= first && pair.end <= end) return pair.tokens
  let tokens = 0
  for (const start of pair.cells) {
    tokens += Math.max(0, Math.min(start + cell, end) - Math.max(start, first))
  }
  return tokens
}

/** How many tokens of the half-open range lie in pages of both sides: the sum of `sharedTokens` over all of them. */
export function countShared(table: PageTable, [first, end]: readonly [number, number]): number {
  return first < end ? sharedBefore(table, end) - sharedBefore(table, first) : 0
}

/** How often two pages of these pairs meet that share any token of the half-open range. */
export function countMeetings(
  { cell, period }: PageTable,
  pairs: readonly PagePair[],
  [first, end]: readonly [number, number],
): number {
  if (first >= end) return 0
  const [low, high] = [Math.floor(first / period), Math.ceil(end / period) - 1]
  // Between the first period and the last all pages are there as a whole.
  const meets = (pair: PagePair, round: number) =>
    Number(sharedTokens(pair, cell, first - round * period, end - round * period) > 0)
  return pairs.reduce((sum, pair) => {
    const borders = meets(pair, low) + (high > low ? meets(pair, high) : 0)
    return sum + borders + Math.max(0, high - low - 1)
  }, 0)
}

function sharedBefore({ pairs, cell, period }: PageTable, token: number): number {
  const round = Math.floor(token / period)
  const rest = token - round * period
  let [each, partial] = [0, 0]
  for (const { cells } of pairs) {
    each += cells.length * cell
    for (const start of cells) partial += Math.min(cell, Math.max(0, rest - start))
  }
  return round * each + partial
}

interface Cell {
  readonly token: number
  readonly from: { readonly page: number; readonly at: number }
  readonly to: { readonly page: number; readonly at: number }
}

/** Tokens of the prompt from the beginning of a page to that of the next. */
export function spanOf({ pageTokens, held }: Side): number {
  return lcm(pageTokens, held.stretch) * held.of
}

function holds({ held }: Side, token: number): boolean {
  return Math.floor(token / held.stretch) % held.of === held.at
}

function place({ pageTokens, held }: Side, token: number, period: number) {
  const local = position({ ...held, first: 0, end: period }, token)
  return { page: Math.floor(local / pageTokens), at: local % pageTokens }
}

function pagesOf({ pageTokens, held }: Side, period: number): number {
  return period / held.of / pageTokens
}

/** Joins cells that follow each other on both sides to runs, and runs at equal distances to one strip. */
function stripsOf(cells: readonly Cell[], cell: number): Strip[] {
  const runs: { source: number; destination: number; run: number }[] = []
  for (const { from, to } of cells) {
    const last = runs.at(-1)
    if (last && last.source + last.run === from.at && last.destination + last.run === to.at) {
      last.run += cell
    } else {
      runs.push({ source: from.at, destination: to.at, run: cell })
    }
  }
  const strips: { -readonly [K in keyof Strip]: Strip[K] }[] = []
  for (const { source, destination, run } of runs) {
    const last = strips.at(-1)
    if (last?.run === run) {
      const sourceStride = source - (last.source + (last.times - 1) * last.sourceStride)
      const destinationStride =
        destination - (last.destination + (last.times - 1) * last.destinationStride)
      const goesOn =
        sourceStride === last.sourceStride && destinationStride === last.destinationStride
      if (last.times === 1 || goesOn) {
        Object.assign(last, { times: last.times + 1, sourceStride, destinationStride })
        continue
      }
    }
    strips.push({ source, destination, run, times: 1, sourceStride: 0, destinationStride: 0 })
  }
  return strips
}

function describe({ pageTokens, held }: Side): string {
  const tokens = `${String(pageTokens)} tokens`
  return held.of === 1
    ? tokens
    : `${tokens} that hold one of every ${String(held.of)} stretches of ${String(held.stretch)}`
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b)
}

export function lcm(a: number, b: number): number {
  return (a / gcd(a, b)) * b
}
