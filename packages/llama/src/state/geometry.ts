import { KvxError } from '@kvx/contract'

/** Bytes of one element: K and V are kept as f16, the type llama.cpp uses unless told otherwise. */
export const elementBytes = 2

/** What of a model decides how its cache lies in memory. All layers are alike. */
export interface Geometry {
  readonly layers: number
  /** KV heads. */
  readonly heads: number
  /** Elements of one head of K and of V. */
  readonly keyDim: number
  readonly valueDim: number
}

/** Bytes of K and of V of one token in one layer. */
export function keyRowBytes(geometry: Geometry): number {
  return geometry.heads * geometry.keyDim * elementBytes
}

export function valueRowBytes(geometry: Geometry): number {
  return geometry.heads * geometry.valueDim * elementBytes
}

/** The facts of a GGUF file's metadata that a geometry is made from, as numbers. */
export interface AttentionFacts {
  readonly architecture: string
  readonly block_count?: unknown
  readonly embedding_length?: unknown
  readonly head_count?: unknown
  readonly head_count_kv?: unknown
  readonly key_length?: unknown
  readonly value_length?: unknown
}

/**
 * Geometry of a model with one kind of attention in all layers.
 *
 * @throws KvxError `ERR_KVX_MODEL` when layers differ from each other or a fact is missing
 */
export function geometryOf(facts: AttentionFacts): Geometry {
  const number = (name: keyof AttentionFacts, value: unknown): number => {
    const each: unknown[] = Array.isArray(value) ? value : [value]
    const first = Number(each[0])
    if (!each.every((one) => Number(one) === first)) {
      throw unsupported(facts, `its layers differ from each other in ${name}`)
    }
    if (!Number.isSafeInteger(first) || first < 1) {
      throw unsupported(facts, `its metadata has no usable ${name}`)
    }
    return first
  }
  const layers = number('block_count', facts.block_count)
  const headCount = number('head_count', facts.head_count)
  const heads =
    facts.head_count_kv === undefined ? headCount : number('head_count_kv', facts.head_count_kv)
  const usual = (): number => number('embedding_length', facts.embedding_length) / headCount
  const keyDim = facts.key_length === undefined ? usual() : number('key_length', facts.key_length)
  const valueDim =
    facts.value_length === undefined ? usual() : number('value_length', facts.value_length)
  if (!Number.isSafeInteger(keyDim) || !Number.isSafeInteger(valueDim)) {
    throw unsupported(facts, 'its heads do not divide its embedding length')
  }
  return { layers, heads, keyDim, valueDim }
}

export function unsupported(facts: { architecture: string }, why: string): KvxError {
  return new KvxError(
    'ERR_KVX_MODEL',
    `The model (${facts.architecture}) cannot be served in pages: ${why}. Models with plain attention in every layer can.`,
    { phase: 'open' },
  )
}
