/** States as texts: equal for states from which the same can follow. */
import { Pairing } from '@kvx/core/bytes'
import { timeFields, timeMap } from './copy.ts'
import { horizon } from './small.ts'

/** Counts that change nothing, how long something took, and what is the same in all processes of a world. */
const leftOut: ReadonlySet<string> = new Set([
  ...[
    'dropped',
    'airtime',
    'ms',
    'self',
    'deadlines',
    'limits',
    'rank',
    'served',
    'shape',
    'place',
  ],
])

/**
 * Everything that is reachable, in the order in which a reducer would walk it; an object that is met again stands for the
 * place where it was met first. Moments are told from `now` on, as far as a deadline reaches.
 */
export function textOf(state: object, now: number): string {
  const seen = new Map<object, number>()
  let text = ''
  const walk = (value: unknown): void => {
    if (typeof value === 'object' && value !== null) walkObject(value)
    else if (typeof value === 'string') text += JSON.stringify(value)
    else text += String(value)
  }
  const walkObject = (value: object): void => {
    if (ArrayBuffer.isView(value)) {
      text += `<${[...new Uint8Array(value.buffer, value.byteOffset, value.byteLength)].join()}>`
      return
    }
    // Of two ranks there is one.
    if (value instanceof Pairing) {
      text += 'pairing'
      return
    }
    if (value instanceof Error) {
      const { code = '', message } = value as Error & { code?: string }
      text += `${code}:${message}`
      return
    }
    const met = seen.get(value)
    if (met !== undefined) {
      text += `#${String(met)}`
      return
    }
    seen.set(value, seen.size)
    if (value instanceof Map) {
      text += 'M{'
      for (const [key, inner] of value as Map<unknown, unknown>) {
        walk(key)
        text += ':'
        walk(inner)
        text += ','
      }
    } else if (value instanceof Set || Array.isArray(value)) {
      text += value instanceof Set ? 'S{' : '{'
      for (const inner of value as Iterable<unknown>) {
        walk(inner)
        text += ','
      }
    } else {
      text += '{'
      const fields = value as Readonly<Record<string, unknown>>
      for (const name in fields) {
        if (leftOut.has(name)) continue
        const inner = fields[name]
        if (inner === undefined) continue
        text += `${name}:`
        if (timeFields.has(name) && typeof inner === 'number') text += moment(inner)
        else if (name === timeMap)
          for (const [key, due] of inner as Map<string, number>) text += `${key}:${moment(due)},`
        else walk(inner)
        text += ','
      }
    }
    text += '}'
  }
  const moment = (time: number): string => String(Math.max(-horizon, Math.min(horizon, time - now)))
  walk(state)
  return text
}
