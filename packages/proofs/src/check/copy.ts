/** Copies of the state of a reducer: plain data with circles, of which what never changes is shared. */

/** Moments, in the states of both sides. */
export const timeFields: ReadonlySet<string> = new Set([
  ...['deadline', 'until', 'heard', 'pinged', 'failedAt', 'since', 'soughtSince', 'queueEnd'],
  ...['used', 'patience'],
])
/** A map whose values are moments. */
export const timeMap = 'unfenced'

/** What is replaced and never changed, or belongs to a message. */
const sharedFields: ReadonlySet<string> = new Set([
  ...['self', 'deadlines', 'limits', 'rank', 'served', 'pairing', 'planned', 'parts', 'prompt'],
  ...['outcome', 'aux', 'error', 'pages', 'coverage', 'regions', 'staging', 'ranks', 'down'],
])

/** The state as it was so long ago: all its moments lie further back. */
export function copyOf<T extends object>(state: T, age = 0): T {
  const copies = new Map<object, object>()
  const copyAny = (value: unknown): unknown =>
    typeof value === 'object' && value !== null ? copyObject(value) : value
  const copyObject = (value: object): object => {
    const known = copies.get(value)
    if (known) return known
    if (value instanceof Map) {
      const copy = new Map<unknown, unknown>()
      copies.set(value, copy)
      for (const [key, inner] of value as Map<unknown, unknown>)
        copy.set(copyAny(key), copyAny(inner))
      return copy
    }
    if (value instanceof Set) {
      const copy = new Set<unknown>()
      copies.set(value, copy)
      for (const inner of value as Set<unknown>) copy.add(copyAny(inner))
      return copy
    }
    if (Array.isArray(value)) {
      const copy: unknown[] = []
      copies.set(value, copy)
      for (const inner of value as unknown[]) copy.push(copyAny(inner))
      return copy
    }
    // What the host has written is marked in place.
    if (value instanceof Int32Array) return value.slice()
    if (Object.getPrototypeOf(value) !== Object.prototype) return value
    const fields = value as Readonly<Record<string, unknown>>
    const copy: Record<string, unknown> = {}
    copies.set(value, copy)
    for (const name in fields) copy[name] = copyField(name, fields[name])
    return copy
  }
  const copyField = (name: string, value: unknown): unknown => {
    if (typeof value === 'number') return timeFields.has(name) ? value - age : value
    // A destination gets its pages once; the lists never change.
    if (sharedFields.has(name)) return value
    if (name !== timeMap) return copyAny(value)
    return new Map([...(value as Map<string, number>)].map(([key, due]) => [key, due - age]))
  }
  return copyObject(state) as T
}
