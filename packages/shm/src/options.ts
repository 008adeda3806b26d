import { KvxError } from '@kvx/core/backend'
import * as v from 'valibot'

const schema = v.strictObject({
  copyThreads: v.optional(
    v.pipe(
      v.number('must be a number'),
      v.integer('must be a whole number'),
      v.minValue(1, 'must be at least 1'),
      v.maxValue(64, 'must be at most 64'),
    ),
  ),
})

export interface ShmOptions {
  /** Threads that copy, 1 to 64. Default 1. */
  readonly copyThreads?: number | undefined
}

const known = Object.keys(schema.entries)

/** @throws KvxError `ERR_KVX_INVALID_OPTION`, which names the option and the nearest that exists */
export function checkOptions(options: unknown): ShmOptions {
  const result = v.safeParse(schema, options ?? {})
  if (result.success) return result.output
  const [issue] = result.issues
  const name = v.getDotPath(issue)
  if (name === null) throw invalid(`The options of the backend 'shm' must be an object.`)
  if (!known.includes(name)) {
    throw invalid(
      `The backend 'shm' has no option '${name}'. Did you mean '${nearest(name)}'? It has: ${known.join(', ')}.`,
    )
  }
  throw invalid(`The option '${name}' of the backend 'shm' ${issue.message}.`)
}

function invalid(message: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_OPTION', message, { phase: 'open' })
}

function nearest(name: string): string {
  return known.reduce((best, next) => (distance(name, next) < distance(name, best) ? next : best))
}

/** Levenshtein's, case ignored. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (const [i, char] of Array.from(a.toLowerCase()).entries()) {
    let left = i + 1
    const next = [left]
    for (const [j, other] of Array.from(b.toLowerCase()).entries()) {
      const [diagonal = 0, above = 0] = [row[j], row[j + 1]]
      left = Math.min(left + 1, above + 1, diagonal + (char === other ? 0 : 1))
      next.push(left)
    }
    row = next
  }
  return row.at(-1) ?? 0
}
