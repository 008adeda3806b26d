/** What is said of many numbers. */

/** The nearest rank; 0 of nothing. */
export function quantile(ascending: readonly number[], share: number): number {
  return ascending[Math.max(0, Math.ceil(share * ascending.length) - 1)] ?? 0
}

export const ascending = (numbers: readonly number[]): number[] =>
  [...numbers].sort((a, b) => a - b)

export const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0)

/** 0 of nothing. */
export const mean = (numbers: readonly number[]): number =>
  numbers.length === 0 ? 0 : sum(numbers) / numbers.length

/** The middle one, and between which they lie: what several rounds have measured. */
export interface Spread {
  readonly median: number
  readonly least: number
  readonly most: number
}

/** @returns undefined of nothing */
export function spreadOf(numbers: readonly number[]): Spread | undefined {
  const sorted = ascending(numbers)
  const [least, most] = [sorted[0], sorted.at(-1)]
  if (least === undefined || most === undefined) return undefined
  const middle = (sorted.length - 1) / 2
  const median = mean([sorted[Math.floor(middle)]!, sorted[Math.ceil(middle)]!])
  return { median, least, most }
}

export interface Percentiles {
  readonly count: number
  readonly mean: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly most: number
}

export function percentilesOf(numbers: readonly number[]): Percentiles {
  const sorted = ascending(numbers)
  return {
    ...{ count: sorted.length, mean: mean(sorted), most: sorted.at(-1) ?? 0 },
    ...{ p50: quantile(sorted, 0.5), p90: quantile(sorted, 0.9), p99: quantile(sorted, 0.99) },
  }
}

/** Least squares: by how much `y` grows for each `x`. 0 of fewer than two. */
export function slopeOf(points: readonly (readonly [x: number, y: number])[]): number {
  const [x, y] = [mean(points.map(([at]) => at)), mean(points.map(([, value]) => value))]
  const spread = sum(points.map(([at]) => (at - x) ** 2))
  return spread === 0 ? 0 : sum(points.map(([at, value]) => (at - x) * (value - y))) / spread
}
