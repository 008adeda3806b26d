/**
 * Which tokens of which layers have come: the half of the ledger that knows where, whatever tokens are numbered by. Plain
 * data: rectangles of layers and tokens, few of them, as layers come in ranges and tokens in chunks.
 */
import { overlap, type Range } from './holdings.ts'

/** Layers of which the same tokens have come. */
interface Band {
  readonly layers: Range
  /** Ascending, apart from each other. */
  readonly tokens: readonly Range[]
}

/** Bands from the first layer to the last, without a gap between them. */
export type Coverage = readonly Band[]

export interface Rectangle {
  readonly layers: Range
  readonly tokens: Range
}

export function emptyCoverage(layers: Range): Coverage {
  return [{ layers, tokens: [] }]
}

/** What of a rectangle is there already: the first such part, by layer; undefined for nothing. */
export function firstCovered(
  coverage: Coverage,
  { layers, tokens }: Rectangle,
): Rectangle | undefined {
  return firstPart(coverage, layers, (covered) => {
    for (const range of covered) {
      const common = overlap(range, tokens)
      if (common) return common
    }
    return undefined
  })
}

/** What of a rectangle is not there yet: the first such part, by layer; undefined for nothing. */
export function firstMissing(
  coverage: Coverage,
  { layers, tokens }: Rectangle,
): Rectangle | undefined {
  return firstPart(coverage, layers, (covered) => {
    let [first, end] = tokens
    for (const [low, high] of covered) {
      if (low > first) {
        end = Math.min(end, low)
        break
      }
      first = Math.max(first, high)
    }
    return first < end ? [first, end] : undefined
  })
}

/** With a rectangle more. Layers outside those of the coverage do not count. */
export function cover(coverage: Coverage, { layers, tokens }: Rectangle): Coverage {
  if (tokens[0] >= tokens[1]) return coverage
  const bands = coverage.flatMap((band): Band[] => {
    const common = overlap(band.layers, layers)
    if (!common) return [band]
    const pieces: Band[] = [
      { layers: [band.layers[0], common[0]], tokens: band.tokens },
      { layers: common, tokens: joined(band.tokens, tokens) },
      { layers: [common[1], band.layers[1]], tokens: band.tokens },
    ]
    return pieces.filter((piece) => piece.layers[0] < piece.layers[1])
  })
  return bands.reduce<Band[]>((list, band) => {
    const last = list.at(-1)
    if (last && isEqual(last.tokens, band.tokens)) {
      list[list.length - 1] = { layers: [last.layers[0], band.layers[1]], tokens: last.tokens }
    } else {
      list.push(band)
    }
    return list
  }, [])
}

function firstPart(
  coverage: Coverage,
  layers: Range,
  find: (covered: readonly Range[]) => Range | undefined,
): Rectangle | undefined {
  for (const band of coverage) {
    const common = overlap(band.layers, layers)
    const tokens = common && find(band.tokens)
    if (tokens) return { layers: common, tokens }
  }
  return undefined
}

function joined(ranges: readonly Range[], added: Range): Range[] {
  let [first, end] = added
  const apart = ranges.filter(([low, high]) => {
    if (high < first || low > end) return true
    ;[first, end] = [Math.min(first, low), Math.max(end, high)]
    return false
  })
  return [...apart, [first, end] as const].sort((a, b) => a[0] - b[0])
}

function isEqual(a: readonly Range[], b: readonly Range[]): boolean {
  return a.length === b.length && a.every((range, i) => String(range) === String(b[i]))
}
