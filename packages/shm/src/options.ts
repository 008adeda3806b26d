import { inspect } from 'node:util'
import { KvxError } from '@kvx/contract'

export interface ShmOptions {
  /** Threads that copy, 1 to 64. Default 1. */
  readonly copyThreads?: number | undefined
}

const known = ['copyThreads']

/** @throws KvxError `ERR_KVX_INVALID_OPTION`, which names the option and the nearest that exists */
export function checkOptions(options: unknown): ShmOptions {
  const given = options ?? {}
  if (typeof given !== 'object' || Array.isArray(given)) {
    throw invalid(`The options of the backend 'shm' must be an object.`)
  }
  const unknown = Object.keys(given).find((name) => !known.includes(name))
  if (unknown !== undefined) {
    throw invalid(
      `The backend 'shm' has no option '${unknown}'. Did you mean '${nearest(unknown)}'? It has: ${known.join(', ')}.`,
    )
  }
  const { copyThreads } = given as { copyThreads?: unknown }
  if (copyThreads === undefined) return {}
  if (!isThreadCount(copyThreads)) {
    throw invalid(
      `The option 'copyThreads' of the backend 'shm' must be an integer from 1 to 64, got ${inspect(copyThreads)}.`,
    )
  }
  return { copyThreads }
}

const isThreadCount = (value: unknown): value is number =>
  Number.isInteger(value) && Number(value) >= 1 && Number(value) <= 64

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
