/** Whether what a caller gives has the form that a public call takes: one way to check it, and one to say it. */
import { isInt32Array, isUint32Array, isUint8Array } from 'node:util/types'
import * as v from 'valibot'
import { KvxError, type ErrorCode, type Log, type Phase } from '@kvx/contract'
import { isHost, parseEndpoint } from './control/endpoint.ts'
import { maxNameLength } from './shape/shape.ts'
import type { Context } from './share/rank.ts'

/**
 * `value`, checked. A schema says what a value must be; here it is said of which, and what came instead: `chunk.start must
 * be an integer from 0 on, got 1.5.`
 *
 * @throws KvxError with `code`
 */
export function checked<S extends v.GenericSchema>(
  schema: S,
  value: unknown,
  about: { name: string; code: ErrorCode; phase?: Phase },
): v.InferOutput<S> {
  const result = v.safeParse(schema, value, { abortEarly: true })
  if (result.success) return result.output
  const [issue] = result.issues
  throw new KvxError(about.code, objection(about.name, issue), { phase: about.phase })
}

/** An object with these keys, its own or those of its class. */
export function having<E extends v.ObjectEntries>(entries: E) {
  return v.pipe(
    such<object>('an object', isObject),
    // A key that is missing is one that is undefined.
    v.transform((given) =>
      Object.fromEntries(
        Object.keys(entries).map((key) => [key, (given as Record<string, unknown>)[key]]),
      ),
    ),
    v.object(entries),
  )
}

/** An object with these keys and no others. */
export function exactly<E extends v.ObjectEntries>(entries: E) {
  const known = Object.keys(entries)
  return v.pipe(
    such<object>('an object', isObject),
    v.rawCheck(({ dataset, addIssue }) => {
      if (!dataset.typed) return
      const unknown = Object.keys(dataset.value).find((key) => !known.includes(key))
      if (unknown === undefined) return
      const near = nearest(unknown, known)
      const hint =
        near === undefined ? `There are: ${known.join(', ')}.` : `Did you mean '${near}'?`
      addIssue({ message: `there is no '${unknown}'. ${hint}` })
    }),
    having(entries),
  )
}

/** An object of any keys, all with such values. */
export function recordOf<S extends v.GenericSchema>(value: S) {
  return v.pipe(such<Record<string, unknown>>('an object', isObject), v.record(v.string(), value))
}

/** Anything that `fits`. */
export function such<T>(what: string, fits: (value: unknown) => boolean) {
  return v.custom<T>(fits, what)
}

export function integer(least: number, most = Number.MAX_SAFE_INTEGER) {
  const range =
    most === Number.MAX_SAFE_INTEGER
      ? `from ${String(least)} on`
      : `from ${String(least)} to ${String(most)}`
  const fits = (value: unknown) =>
    Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most
  return such<number>(`an integer ${range}`, fits)
}

export const text = such<string>(
  'a string that is not empty',
  (value) => typeof value === 'string' && value !== '',
)
/** A name that travels, so that it has a bound. */
export const name = such<string>(
  `a name of 1 to ${String(maxNameLength)} characters`,
  (value) => typeof value === 'string' && value !== '' && value.length <= maxNameLength,
)
export const endpoint = such<string>(
  'an address tcp://host:port',
  (value) => typeof value === 'string' && (parseEndpoint(value)?.port ?? 0) > 0,
)
export const range = such<readonly [number, number]>(
  'two integers [first, end]',
  (value) => Array.isArray(value) && value.length === 2 && value.every(Number.isSafeInteger),
)
/** Which tokens the context-parallel ranks of an instance hold. */
export const context = such<Context>(
  "'all', 'contiguous' or { interleave: tokens }",
  (value) => value === 'all' || value === 'contiguous' || isInterleaved(value),
)
function isInterleaved(value: unknown): boolean {
  if (!isObject(value) || Object.keys(value as object).join() !== 'interleave') return false
  return Number.isSafeInteger((value as { interleave: unknown }).interleave)
}
export const host = such<string>('a host name or an IP address', isHost)
/** A time to wait: as long as one likes, also for ever. */
export const milliseconds = such<number>(
  'milliseconds, 0 or more',
  (value) => typeof value === 'number' && value >= 0,
)
export const callback = such<(...args: never[]) => unknown>(
  'a function',
  (value) => typeof value === 'function',
)
export const logger = such<Log>(
  'a logger with debug, info, warn and error',
  (value) =>
    isObject(value) &&
    ['debug', 'info', 'warn', 'error'].every(
      (level) => typeof (value as Record<string, unknown>)[level] === 'function',
    ),
)
/** A page list, or such lists by component. */
export const pageLists = v.lazy((value) =>
  Array.isArray(value) || isInt32Array(value) ? pageList : recordOf(pageList),
)
export const truth = v.boolean('true or false')
export const signal = such<AbortSignal>('an AbortSignal', (value) => value instanceof AbortSignal)
export const tokenIdList = such<readonly number[] | Int32Array | Uint32Array>(
  'an array of token ids, an Int32Array or a Uint32Array',
  (value) => Array.isArray(value) || isInt32Array(value) || isUint32Array(value),
)
export const bytes = such<Uint8Array>('a Uint8Array', isUint8Array)

/** The page numbers of a host, as an `Int32Array` that is not copied or a plain array. */
export const pageList = v.pipe(
  such<Int32Array | readonly number[]>(
    'an Int32Array or an array of page numbers',
    (value) => isInt32Array(value) || (Array.isArray(value) && value.every(isPage)),
  ),
  v.transform((pages) => (isInt32Array(pages) ? pages : Int32Array.from(pages))),
)

const isPage = (value: unknown) => Number.isInteger(value) && Math.abs(Number(value)) < 2 ** 31
export const isObject = (value: unknown) =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function objection(name: string, issue: v.BaseIssue<unknown>): string {
  const path = issue.path ?? []
  const at = path.reduce(
    (all, { key }) =>
      typeof key === 'number' ? `${all}[${String(key)}]` : `${all}${all && '.'}${String(key)}`,
    name,
  )
  if (issue.type === 'raw_check') return `${at || 'The options'}: ${issue.message}`
  return `${at || 'The options'} must be ${issue.message}, got ${shown(issue.input)}.`
}

/** A caller's value in a text of ours: short, and of no object more than its kind. */
export function shown(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 60 ? `${value.slice(0, 59)}…` : value)
    case 'bigint':
      return `${String(value)}n`
    case 'function':
      return 'a function'
    case 'object': {
      if (value === null) return 'null'
      const kind = Object.prototype.toString.call(value).slice(8, -1)
      return kind === 'Object' ? 'an object' : `${/^(A|E|I)/.test(kind) ? 'an' : 'a'} ${kind}`
    }
    default:
      return String(value)
  }
}

/** The one of `names` that was probably meant. */
export function nearest(name: string, names: readonly string[]): string | undefined {
  const ranked = names
    .map((known) => ({ known, far: distance(name.toLowerCase(), known.toLowerCase()) }))
    .sort((a, b) => a.far - b.far)
  const [best] = ranked
  return best && best.far <= Math.max(1, Math.floor(name.length / 3)) ? best.known : undefined
}

/** How many letters must be put in, taken out or changed. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (const [i, letter] of Array.from(a).entries()) {
    const next = [i + 1]
    for (const [j, other] of Array.from(b).entries()) {
      const changed = row[j]! + (letter === other ? 0 : 1)
      next.push(Math.min(changed, row[j + 1]! + 1, next[j]! + 1))
    }
    row = next
  }
  return row[b.length]!
}
