/**
 * The first tokens of all answers to one prompt, as prefill sends them beside its cache: that of the first answer as
 * such, the others in the blob, 4 bytes each, little-endian.
 */
import type { Aux } from '@kvx/core'
import { KvxError } from '@kvx/contract'

/** @param firstTokens one for each answer; at least one */
export function auxOf([firstToken, ...others]: readonly number[]): Aux {
  if (firstToken === undefined) return {}
  if (others.length === 0) return { firstToken }
  const blob = new Uint8Array(others.length * 4)
  const view = new DataView(blob.buffer)
  others.forEach((token, index) => {
    view.setUint32(index * 4, token, true)
  })
  return { firstToken, blob }
}

/**
 * @param samples answers that were asked for
 * @param vocabularySize tokens that the model knows: with another one its library would end this process
 * @throws KvxError `ERR_KVX_PROTOCOL` when there are fewer or more, or one that the model does not know
 */
export function firstTokensIn(aux: Aux, samples: number, vocabularySize: number): number[] {
  const { firstToken, blob = new Uint8Array() } = aux
  if (firstToken === undefined) {
    throw new KvxError('ERR_KVX_PROTOCOL', 'Prefill sent the cache without a first token.')
  }
  if (blob.length !== (samples - 1) * 4) {
    throw new KvxError(
      'ERR_KVX_PROTOCOL',
      `Prefill sent ${String(blob.length)} bytes of further first tokens; for ${String(samples)} answers it must be ${String((samples - 1) * 4)}: prefill and decode were not sent the same request.`,
    )
  }
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength)
  const others = Array.from({ length: samples - 1 }, (_, index) => view.getUint32(index * 4, true))
  const tokens = [firstToken, ...others]
  const foreign = tokens.find((token) => token >= vocabularySize)
  if (foreign === undefined) return tokens
  throw new KvxError(
    'ERR_KVX_PROTOCOL',
    `Prefill sent the first token ${String(foreign)}; this model knows 0 to ${String(vocabularySize - 1)}.`,
  )
}
