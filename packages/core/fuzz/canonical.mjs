import { Pairing } from '../dist/plan/index.js'

/**
 * Everything that is reachable from a state as one text, equal for states that hold the same in
 * another order of insertion. References count, not only values: an object that is met again stands
 * for the place where it was met first. Nothing is left out, so that the comparison is exact.
 *
 * @param {object} state
 * @param {ReadonlySet<string>} except names of fields that are left out
 */
export function canonical(state, except) {
  const parts = []
  const seen = new Map()
  const walk = (value) => {
    switch (typeof value) {
      case 'object':
        if (value === null) parts.push('null')
        else walkObject(value)
        return
      case 'string':
        parts.push(JSON.stringify(value))
        return
      case 'bigint':
        parts.push(`${value}n`)
        return
      case 'function':
        parts.push('function')
        return
      default:
        parts.push(String(value))
    }
  }
  const walkObject = (value) => {
    if (ArrayBuffer.isView(value)) {
      parts.push(
        value.constructor.name,
        '<',
        Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('latin1'),
        '>',
      )
      return
    }
    const met = seen.get(value)
    if (met !== undefined) {
      parts.push(`#${met}`)
      return
    }
    seen.set(value, seen.size)
    if (value instanceof Map) {
      parts.push('Map{')
      for (const [key, inner] of [...value].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))) {
        parts.push(String(key), '=')
        walk(inner)
        parts.push(',')
      }
      parts.push('}')
    } else if (value instanceof Set) {
      parts.push('Set{')
      for (const [, inner] of [...value]
        .map((one) => [label(one), one])
        .sort(([a], [b]) => (a < b ? -1 : 1))) {
        walk(inner)
        parts.push(',')
      }
      parts.push('}')
    } else if (Array.isArray(value)) {
      parts.push('[')
      for (const inner of value) {
        walk(inner)
        parts.push(',')
      }
      parts.push(']')
    } else {
      const fields =
        value instanceof Pairing
          ? ['lanes']
          : value instanceof Error
            ? ['code', 'message', 'phase', 'peer', 'rank']
            : Object.keys(value).sort()
      parts.push('{')
      for (const field of fields) {
        if (except.has(field)) continue
        parts.push(field, ':')
        walk(value[field])
        parts.push(',')
      }
      parts.push('}')
    }
  }
  walk(state)
  return parts.join('')
}

/** What tells the members of a set apart: their plain fields, and the name of whom they belong to. */
function label(value) {
  if (typeof value !== 'object' || value === null) return String(value)
  let text = ''
  for (const field of Object.keys(value).sort()) {
    const inner = value[field]
    if (typeof inner !== 'object' && typeof inner !== 'function')
      text += `${field}:${String(inner)};`
  }
  return text + String(value.peer?.incarnation ?? '') + String(value.link?.endpoint ?? '')
}
