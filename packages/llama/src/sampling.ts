import { createHash, randomInt } from 'node:crypto'
import { KvxError } from '@kvx/core/backend'

export interface Sampling {
  /** 0 (the default): the most probable token, always. */
  readonly temperature?: number | undefined
  /** Only the k most probable tokens; 0 (the default): all. */
  readonly topK?: number | undefined
  /** Only the most probable tokens that together have this probability. Default 1: all. */
  readonly topP?: number | undefined
  /** Any safe integer. Prefill and decode of one request must be given the same. Default: random. */
  readonly seed?: number | undefined
}

export interface ResolvedSampling {
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly seed: number
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` */
export function resolveSampling(sampling: Sampling = {}): ResolvedSampling {
  const { temperature = 0, topK = 0, topP = 1, seed = randomInt(2 ** 47) } = sampling
  if (!(temperature >= 0 && temperature <= 100)) {
    throw invalid('temperature', temperature, 'a number from 0 to 100')
  }
  if (!Number.isSafeInteger(topK) || topK < 0) {
    throw invalid('top_k', topK, 'a whole number of tokens, or 0 for all')
  }
  if (!(topP > 0 && topP <= 1)) throw invalid('top_p', topP, 'greater than 0 and at most 1')
  if (!Number.isSafeInteger(seed)) {
    throw invalid('seed', seed, 'a whole number between -2^53 and 2^53')
  }
  return { temperature, topK, topP, seed }
}

/**
 * Seed of one draw, a function of the request's seed and the position of the drawn token alone. So a
 * decode process that begins in the middle draws what a process that did everything would have drawn.
 *
 * @returns 0 … 2^32 − 2 (2^32 − 1 means "random" to llama.cpp)
 */
export function seedAt(seed: number, position: number): number {
  const digest = createHash('sha256')
    .update(`${String(seed)}:${String(position)}`)
    .digest()
  return digest.readUInt32LE(0) % 0xffff_ffff
}

function invalid(name: string, value: unknown, wanted: string): KvxError {
  return new KvxError(
    'ERR_KVX_INVALID_ARGUMENT',
    `${name} is ${String(value)}, but must be ${wanted}.`,
  )
}
