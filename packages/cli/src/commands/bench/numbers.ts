/** Lists of numbers on the command line. */
import type { Flags } from '../../flags.ts'
import { UsageError } from '../../usage.ts'

/**
 * `128,256,1024`, or `128..32768`, which doubles from the first to the last.
 * @throws UsageError
 */
export function integers(flags: Flags, name: string, least: number, most: number): number[] {
  const text = flags.string(name)
  if (text === undefined) return []
  const bad = (word: string): UsageError =>
    new UsageError(
      `--${name} takes integers from ${String(least)} to ${String(most)}, as 128,256 or 128..1024, not '${word}'.`,
    )
  const integer = (word: string): number => {
    const value = Number(word)
    if (!/^\d{1,15}$/.test(word) || value < least || value > most) throw bad(word)
    return value
  }
  const values = text.split(',').flatMap((word) => {
    const [from = '', to, ...rest] = word.split('..')
    if (to === undefined) return [integer(from)]
    const [first, last] = [integer(from), integer(to)]
    if (rest.length > 0 || first < 1 || first > last) throw bad(word)
    const doubled: number[] = []
    for (let value = first; value <= last; value *= 2) doubled.push(value)
    return doubled
  })
  const twice = values.find((value, i) => values.indexOf(value) !== i)
  if (twice !== undefined) throw new UsageError(`--${name} names ${String(twice)} twice.`)
  return values
}
