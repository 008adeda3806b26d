import { isKvxError } from '@kvx/contract'
import { Pairing } from '../../src/plan/index.ts'

/** Paths within `state` of what is no plain data. A pairing is made from two caches and never changes; errors are values. */
export function opaqueParts(state: object): string[] {
  const found: string[] = []
  const seen = new Set<unknown>()
  const walk = (value: unknown, path: string) => {
    if (typeof value === 'function') found.push(path)
    if (typeof value !== 'object' || value === null || seen.has(value)) return
    seen.add(value)
    if (ArrayBuffer.isView(value) || value instanceof Pairing || isKvxError(value)) return
    if (value instanceof Map || value instanceof Set) {
      for (const [key, entry] of value.entries()) {
        walk(key, `${path}.key`)
        walk(entry, `${path}.${String(key)}`)
      }
      return
    }
    const prototype: unknown = Object.getPrototypeOf(value)
    if (prototype !== Object.prototype && prototype !== Array.prototype) found.push(path)
    for (const [name, part] of Object.entries(value)) walk(part, `${path}.${name}`)
  }
  walk(state, 'state')
  return found
}
