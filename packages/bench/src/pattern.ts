/**
 * Bytes that can be computed from where they belong in the cache: whoever knows the coordinates knows the byte, so a
 * target is verified without its source. A row of a unit is words of four bytes; which one a byte lies in is the same in
 * every order within a page.
 */

/** Everything of a tensor's bytes but the unit and the row. */
export function tensorKey(seed: number, component: string, layer: number, part: string): number {
  let key = seed | 0
  for (const letter of `${component}/${String(layer)}/${part}`) {
    key = mix(key, letter.codePointAt(0) ?? 0)
  }
  return key
}

/** Of one row of one unit. */
export function rowKey(key: number, unit: number, row: number): number {
  return mix(mix(key, unit), row)
}

/** The next word of a row: `step` after `step` from its key on. */
export const step = 0x9e3779b9

/** @param at a row's key plus `step` times the number of the word */
export function wordAt(at: number): number {
  const word = Math.imul(at ^ (at >>> 15), 0x85ebca6b)
  return word ^ (word >>> 13)
}

function mix(key: number, value: number): number {
  let mixed = Math.imul(key ^ value, 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return mixed ^ (mixed >>> 16)
}
