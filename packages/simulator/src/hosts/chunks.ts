/** How a host of prefill computes a prompt: in which chunks of tokens, ranges of layers and components it is written. */
import { listsOf, type Chunk, type SendLeg } from '../books/legs.ts'
import type { PromptPages } from '../shape/content.ts'
import { heldTokens } from '../shape/memory.ts'
import type { Random } from '../shape/random.ts'

type Range = readonly [first: number, end: number]

/** A component of pages, with the tokens that lie in them. */
interface Paged {
  readonly name: string
  readonly pages: PromptPages
  readonly size: number
  readonly tokens: readonly number[]
}

export function chunksOf(
  random: Random,
  leg: SendLeg,
): { todo: Chunk[]; lastState: Record<string, Int32Array> } {
  const { memory } = leg.host.slot
  const { layers } = memory.shape
  const paged = [...leg.pages].flatMap(([name, pages]): Paged[] => {
    const { pageTokens: size } = pages.held
    if (size === undefined) return []
    return [{ name, pages, size, tokens: heldTokens(memory, pages.held, leg.job.tokens) }]
  })
  const anyOrder = random.chance(0.3)
  const whole = tokenRanges(random, leg, anyOrder ? paged : undefined)
  const { context, cpSize } = memory.rank
  const isDealtOut = cpSize > 1 && typeof context === 'object'
  const own = isDealtOut && !anyOrder && random.chance(0.5)
  const chunks = own ? whole.flatMap((range) => ownRanges(paged[0], range)) : whole
  const byComponent = paged.length > 1 && random.chance(0.25)
  const todo = chunks.flatMap((tokens) => {
    const writes = layerRanges(random, layers).flatMap((range): Chunk[] => {
      const lists = paged.map((each) => [each.name, pagesWith(each, tokens)] as const)
      const parts = byComponent ? lists.map((list) => [list]) : [lists]
      return parts.map((part) => ({
        tokens,
        pages: Object.fromEntries(part),
        state: {},
        layers: range,
      }))
    })
    return random.chance(0.5) ? random.shuffle(writes) : writes
  })
  if (anyOrder) random.shuffle(todo)
  const state = listsOf(leg, 'request')
  if (random.chance(0.5)) return { todo, lastState: state }
  // Each layer of the state is there as soon as it has seen the whole prompt; what it belongs to does not matter here.
  for (const range of layerRanges(random, layers)) {
    const alone: Chunk = { tokens: undefined, pages: {}, state, layers: range }
    const i = todo.findIndex(({ layers: [first, end] }) => first === range[0] && end === range[1])
    const write = todo[i]
    if (write && random.chance(0.5)) todo[i] = { ...write, state }
    else todo.splice(random.between(0, todo.length), 0, alone)
  }
  return { todo, lastState: {} }
}

/** One after another, cut anywhere; or where pages begin, of all of these components. */
function tokenRanges(
  random: Random,
  { job, firstTokens }: SendLeg,
  pagesOf: readonly Paged[] | undefined,
): Range[] {
  const from = random.chance(0.5) ? 0 : Math.min(job.tokens, ...Object.values(firstTokens))
  const inner = Array.from({ length: job.tokens }, (_, token) => token).filter(
    (token) =>
      token > from &&
      (pagesOf ?? []).every(
        ({ tokens, size }) => tokens.filter((held) => held < token).length % size === 0,
      ),
  )
  const cuts = random.shuffle(inner).slice(0, random.between(0, 2))
  return rangesBetween(from, cuts, job.tokens)
}

/** Of a chunk what the rank has: tokens are dealt out alike in all components. */
function ownRanges(paged: Paged | undefined, [first, end]: Range): Range[] {
  const ranges: [number, number][] = []
  for (const token of paged?.tokens ?? []) {
    if (token < first || token >= end) continue
    const last = ranges.at(-1)
    if (last?.[1] === token) last[1]++
    else ranges.push([token, token + 1])
  }
  return ranges
}

function layerRanges(random: Random, layers: number): Range[] {
  return rangesBetween(0, random.chance(0.35) ? [random.between(1, layers - 1)] : [], layers)
}

function rangesBetween(first: number, cuts: readonly number[], end: number): Range[] {
  const ends = [...cuts, end].sort((a, b) => a - b)
  const ranges = ends.map((each, i): Range => [ends[i - 1] ?? first, each])
  return ranges.filter(([low, high]) => low < high)
}

/** Those that hold any of the tokens, and are there. */
function pagesWith({ pages, size, tokens }: Paged, [first, end]: Range): Int32Array {
  const numbers = new Set<number>()
  for (const [i, token] of tokens.entries())
    if (token >= first && token < end) numbers.add(Math.floor(i / size) - pages.first)
  return Int32Array.from(
    [...numbers].filter((number) => number >= 0).map((number) => pages.pages[number]!),
  )
}
