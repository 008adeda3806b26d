import { inspect } from 'node:util'
import { KvxError } from '@kvx/contract'

/** Threads and multiprocessors that copies take; all may be left out. */
export interface ShmOptions {
  /** Threads that copy between memory of the host, 1 to 64. Default 1. */
  readonly copyThreads?: number | undefined
  /**
   * Multiprocessors of a GPU that copy at once, 1 to 1024, to another GPU: what a model on the same GPU goes without. Default 8.
   * docs/engines/cuda.md has the measurements behind this and the following.
   */
  readonly copySmsPeer?: number | undefined
  /** The same within a GPU. Default 16. */
  readonly copySmsSameGpu?: number | undefined
  /** The same to memory of the host, for pieces under 256 KiB (1 MiB before CUDA 12.8). Default 2: more of them stall the whole GPU. */
  readonly copySmsToHost?: number | undefined
  /** The same from memory of the host. Default 4. */
  readonly copySmsFromHost?: number | undefined
}

/** With the largest value of each. */
const known: Readonly<Record<keyof ShmOptions, number>> = {
  copyThreads: 64,
  copySmsPeer: 1024,
  copySmsSameGpu: 1024,
  copySmsToHost: 1024,
  copySmsFromHost: 1024,
}
const names = Object.keys(known) as (keyof ShmOptions)[]

/** @throws KvxError `ERR_KVX_INVALID_OPTION`, which names the option and the nearest that exists */
export function checkOptions(options: unknown): ShmOptions {
  const given = options ?? {}
  if (typeof given !== 'object' || Array.isArray(given)) {
    throw invalid(`The options of the backend 'shm' must be an object.`)
  }
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(known, name))
  if (unknown !== undefined) {
    throw invalid(
      `The backend 'shm' has no option '${unknown}'. Did you mean '${nearest(unknown)}'? It has: ${names.join(', ')}.`,
    )
  }
  const checked = Object.entries(given).filter(([, value]) => value !== undefined)
  for (const [name, value] of checked) {
    const most = known[name as keyof ShmOptions]
    if (Number.isInteger(value) && value >= 1 && value <= most) continue
    throw invalid(
      `The option '${name}' of the backend 'shm' must be an integer from 1 to ${String(most)}, got ${inspect(value)}.`,
    )
  }
  return Object.fromEntries(checked)
}

function invalid(message: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_OPTION', message, { phase: 'open' })
}

function nearest(name: string): string {
  return names.reduce((best, next) => (distance(name, next) < distance(name, best) ? next : best))
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
