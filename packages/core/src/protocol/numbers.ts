/** Whether pages, or slots, of a component exist and are named once: two copies of one destination would overwrite each other. */
import type { ComponentShape } from '../shape/index.ts'

/** Words without an end, or undefined. */
export function numbersObjection(
  { name, addressed }: Pick<ComponentShape, 'name' | 'addressed'>,
  numbers: Int32Array,
  count: number,
): string | undefined {
  const what = addressed === 'tokens' ? 'page' : 'slot'
  const outside = numbers.find((number) => number < 0 || number >= count)
  if (outside !== undefined) {
    return `${what} ${String(outside)} of '${name}' does not exist: there are ${String(count)}`
  }
  const named = new Set<number>()
  for (const number of numbers) {
    if (named.has(number)) return `${what} ${String(number)} of '${name}' is named twice`
    named.add(number)
  }
  return undefined
}
