/**
 * Lists of like things as few entries: what grows evenly from one to the next is one run. Eighty layers of a cache are one
 * entry, and so are ten thousand.
 */

/** `count` things that are equal but for their numbers, which begin with `first` and grow by `step`. */
export interface Run<T> {
  readonly value: T
  readonly count: number
  readonly first: readonly number[]
  readonly step: readonly number[]
}

/**
 * @param split a thing into what must be equal within a run, plain data, and the numbers that may grow
 */
export function packRuns<S, T>(
  things: readonly S[],
  split: (thing: S) => { value: T; numbers: readonly number[] },
): Run<T>[] {
  const runs: { value: T; key: string; count: number; first: readonly number[]; step: number[] }[] =
    []
  let last: readonly number[] = []
  for (const thing of things) {
    const { value, numbers } = split(thing)
    const key = JSON.stringify(value)
    const run = runs.at(-1)
    const step = numbers.map((number, i) => number - (last[i] ?? 0))
    const goesOn =
      run?.key === key && (run.count === 1 || step.every((by, i) => by === run.step[i]))
    if (run && goesOn) Object.assign(run, { count: run.count + 1, step })
    else runs.push({ value, key, count: 1, first: numbers, step: numbers.map(() => 0) })
    last = numbers
  }
  return runs.map(({ value, count, first, step }) => ({ value, count, first, step }))
}

/** The things again. Whoever reads runs of a stranger bounds their counts first: `runLength`. */
export function unpackRuns<S, T>(
  runs: readonly Run<T>[],
  join: (value: T, numbers: readonly number[]) => S,
): S[] {
  return runs.flatMap(({ value, count, first, step }) =>
    Array.from({ length: count }, (_, i) =>
      join(
        value,
        first.map((from, axis) => from + i * (step[axis] ?? 0)),
      ),
    ),
  )
}

export function runLength(runs: readonly Run<unknown>[]): number {
  return runs.reduce((sum, { count }) => sum + count, 0)
}
