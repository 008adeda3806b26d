/**
 * What prefill tells decode of the answers beside the cache, in the aux field: the first token of the first answer and
 * `cachedTokens` as such, the rest as JSON in the blob.
 */
import * as v from 'valibot'
import type { Aux } from '@kvx/core'
import { KvxError } from '@kvx/contract'
import type { TokenLogprobs } from '@kvx/llama'

export interface Beginning {
  /** One for each answer. */
  readonly firstTokens: readonly number[]
  /** One for each answer, where they are wanted. */
  readonly firstLogprobs: readonly TokenLogprobs[]
  /** Tokens of the prompt that prefill found in its prefix cache. */
  readonly cachedTokens: number
  /** How long the prompt waited at prefill, in milliseconds. */
  readonly queueMs: number
}

const natural = v.pipe(v.number(), v.integer(), v.minValue(0))
const logprobs = v.object({
  logprob: v.number(),
  top: v.array(v.tuple([natural, v.number()])),
})
const schema = v.object({
  others: v.optional(v.array(natural), []),
  logprobs: v.optional(v.array(logprobs), []),
  queueMs: v.optional(v.pipe(v.number(), v.minValue(0)), 0),
})

/** @param beginning has at least one first token */
export function auxOf({ firstTokens, firstLogprobs, cachedTokens, queueMs }: Beginning): Aux {
  const [firstToken, ...others] = firstTokens
  if (firstToken === undefined) return {}
  const rest = {
    queueMs,
    ...(others.length > 0 && { others }),
    ...(firstLogprobs.length > 0 && { logprobs: firstLogprobs }),
  }
  return { firstToken, cachedTokens, blob: Buffer.from(JSON.stringify(rest)) }
}

/**
 * @param samples answers that were asked for
 * @param vocabularySize tokens that the model knows: with another one its library would end this process
 * @throws KvxError `ERR_KVX_PROTOCOL` when there are fewer or more, or one that the model does not know
 */
export function beginningIn(aux: Aux, samples: number, vocabularySize: number): Beginning {
  const { firstToken, cachedTokens = 0, blob } = aux
  if (firstToken === undefined) throw wrong('Prefill sent the cache without a first token.')
  const { others, logprobs: firstLogprobs, queueMs } = parsed(blob)
  if (others.length !== samples - 1) {
    throw wrong(
      `Prefill sent ${String(others.length + 1)} first tokens for ${String(samples)} answers: prefill and decode were not sent the same request.`,
    )
  }
  const firstTokens = [firstToken, ...others]
  const foreign = firstTokens.find((token) => token >= vocabularySize)
  if (foreign === undefined) return { firstTokens, firstLogprobs, cachedTokens, queueMs }
  throw wrong(
    `Prefill sent the first token ${String(foreign)}; this model knows 0 to ${String(vocabularySize - 1)}.`,
  )
}

function parsed(blob: Uint8Array | undefined): v.InferOutput<typeof schema> {
  if (blob === undefined) return { others: [], logprobs: [], queueMs: 0 }
  let told: unknown
  try {
    told = JSON.parse(Buffer.from(blob).toString())
  } catch {
    told = undefined
  }
  const result = v.safeParse(schema, told)
  if (result.success) return result.output
  throw wrong(
    `Prefill sent ${String(blob.length)} bytes beside the first token that are not what this release of kvx sends: run the same release on both sides.`,
  )
}

const wrong = (message: string) => new KvxError('ERR_KVX_PROTOCOL', message)
