import { Pairing } from '@kvx/core/bytes'

/**
 * Everything that is reachable from a state as one text, equal for states that hold the same in
 * another order of insertion. References count, not only values: an object that is met again stands
 * for the place where it was met first. Nothing is left out, so that the comparison is exact.
 *
 * @param except names of fields that are left out
 */
export function canonical(state: object, except: ReadonlySet<string>): string {
  const parts: string[] = []
  const seen = new Map<object, number>()
  const walk = (value: unknown): void => {
    if (typeof value === 'object' && value !== null) walkObject(value)
    else if (typeof value === 'function') parts.push('function')
    else parts.push(plain(value))
  }
  const walkAll = (open: string, values: readonly unknown[], close: string): void => {
    parts.push(open)
    for (const value of values) {
      walk(value)
      parts.push(',')
    }
    parts.push(close)
  }
  const walkFields = (open: string, fields: Iterable<readonly [string, unknown]>): void => {
    parts.push(open)
    for (const [name, value] of fields) {
      parts.push(name, ':')
      walk(value)
      parts.push(',')
    }
    parts.push('}')
  }
  const walkObject = (value: object): void => {
    if (ArrayBuffer.isView(value)) {
      const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
      parts.push(value.constructor.name, '<', bytes.toString('latin1'), '>')
      return
    }
    const met = seen.get(value)
    if (met !== undefined) {
      parts.push(`#${String(met)}`)
      return
    }
    seen.set(value, seen.size)
    if (value instanceof Map) {
      const entries = [...value].map(([key, inner]) => [String(key), inner] as const)
      walkFields('Map{', entries.sort(byFirst))
    } else if (value instanceof Set) {
      const members = [...value].map((one: unknown) => [label(one), one] as const)
      walkAll(
        'Set{',
        members.sort(byFirst).map(([, one]) => one),
        '}',
      )
    } else if (Array.isArray(value)) {
      walkAll('[', value, ']')
    } else {
      const names = fieldsOf(value).filter((name) => !except.has(name))
      walkFields(
        '{',
        names.map((name) => [name, (value as Fields)[name]] as const),
      )
    }
  }
  walk(state)
  return parts.join('')
}

type Fields = Readonly<Record<string, unknown>>

const byFirst = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]) =>
  a < b ? -1 : a > b ? 1 : 0

function plain(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value)
  return typeof value === 'bigint' ? `${String(value)}n` : String(value)
}

function fieldsOf(value: object): readonly string[] {
  // What two ranks share never changes: its lanes tell which two they are.
  if (value instanceof Pairing) return ['lanes']
  if (value instanceof Error) return ['code', 'message', 'phase', 'peer', 'rank']
  return Object.keys(value).sort()
}

/** What tells the members of a set apart: their plain fields, and the name of whom they belong to. */
function label(value: unknown): string {
  if (typeof value !== 'object' || value === null) return plain(value)
  const fields = value as Fields & { peer?: Fields; link?: Fields }
  let text = ''
  for (const field of Object.keys(fields).sort()) {
    const inner = fields[field]
    if (typeof inner !== 'object' && typeof inner !== 'function')
      text += `${field}:${plain(inner)};`
  }
  return text + plain(fields.peer?.incarnation) + plain(fields.link?.endpoint)
}
