/** The fields that several kinds of requests have, as schemas: what is honoured, and what means nothing. */
import * as v from 'valibot'
import { isHost } from '@kvx/core'
import type { Sampling } from '@kvx/llama'

export const integer = (what: string, least: number, most: number) =>
  v.pipe(
    v.number(`${what} must be a number`),
    v.integer(`${what} must be an integer`),
    v.minValue(least, `${what} must be at least ${String(least)}`),
    v.maxValue(most, `${what} must be at most ${String(most)}`),
  )

/** The most tokens that a field may count. */
export const manyTokens = 2 ** 31 - 1

export const boolean = (what: string) =>
  v.nullish(v.boolean(`${what} must be true or false`), false)

const number = (what: string, least: number, most: number) =>
  v.pipe(
    v.number(`${what} must be a number`),
    v.minValue(least, `${what} must be at least ${String(least)}`),
    v.maxValue(most, `${what} must be at most ${String(most)}`),
  )

const positive = (what: string, most: number) =>
  v.pipe(
    v.number(`${what} must be a number`),
    v.gtValue(0, `${what} must be greater than 0`),
    v.maxValue(most, `${what} must be at most ${String(most)}`),
  )

/** Of any size; what is too large for a number comes as a bigint. */
const anyInteger = (message: string) =>
  v.union(
    [
      v.bigint(),
      v.pipe(
        v.number(),
        v.integer(),
        v.transform((value) => BigInt(value)),
      ),
    ],
    message,
  )

const isTokenId = (value: unknown) =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31

/** A loop of our own: a schema for each of a hundred thousand ids would hold the event loop for long. */
export const tokenIds = (message: string) =>
  v.custom<readonly number[]>((value) => Array.isArray(value) && value.every(isTokenId), message)

/** What one request may ask to be looked for in its answer. */
const maxStops = 16
const maxStopBytes = 1024

/** Some clients send one string, some a list of them. */
const stop = v.pipe(
  v.unknown(),
  v.transform((value): unknown => (typeof value === 'string' ? [value] : value)),
  // Before its strings are looked at.
  v.check(
    (value) => !(Array.isArray(value) && value.length > maxStops),
    `stop has too many strings: ${String(maxStops)} are possible`,
  ),
  v.array(
    v.pipe(
      v.string('stop must be a string or a list of strings'),
      v.minLength(1, 'stop has an empty string: a stop string has at least one character'),
      v.maxBytes(
        maxStopBytes,
        `stop has a string that is too long: ${String(maxStopBytes)} bytes are possible`,
      ),
    ),
    'stop must be a string or a list of strings',
  ),
)

const biasMessage = 'logit_bias must map token ids to numbers, as {"50256": -100}'
const logitBias = v.pipe(
  v.unknown(),
  // A list is an object to JavaScript.
  v.check((value) => !Array.isArray(value), biasMessage),
  v.record(
    v.pipe(v.string(), v.regex(/^\d{1,10}$/, biasMessage)),
    number('logit_bias', -100, 100),
    biasMessage,
  ),
  v.transform((entries) => new Map(Object.entries(entries).map(([id, by]) => [Number(id), by]))),
)

export const seedField = (what: string) =>
  v.nullish(
    v.pipe(
      anyInteger(`${what} must be an integer`),
      // Clients send any 64-bit value; a sampler takes 32 bits.
      v.transform((value) => Number(BigInt.asUintN(32, value))),
    ),
  )

/** How tokens are chosen, and what ends an answer, under the names that all interfaces share. */
export const samplingFields = {
  temperature: v.nullish(number('temperature', 0, 2), 1),
  top_p: v.nullish(positive('top_p', 1), 1),
  // -1 and 0 both mean all: clients of vLLM and SGLang send either.
  top_k: v.nullish(integer('top_k', -1, manyTokens), 0),
  min_p: v.nullish(number('min_p', 0, 1), 0),
  presence_penalty: v.nullish(number('presence_penalty', -2, 2), 0),
  frequency_penalty: v.nullish(number('frequency_penalty', -2, 2), 0),
  repetition_penalty: v.nullish(positive('repetition_penalty', 10), 1),
  logit_bias: v.nullish(logitBias),
  stop: v.nullish(stop, []),
  stop_token_ids: v.nullish(
    v.pipe(
      tokenIds('stop_token_ids must be a list of token ids'),
      v.maxLength(256, 'stop_token_ids has too many token ids: 256 are possible'),
    ),
    [],
  ),
  ignore_eos: boolean('ignore_eos'),
} as const

type SamplingFields = v.InferOutput<v.ObjectSchema<typeof samplingFields, undefined>>

/** @param more what the interfaces name in different ways */
export function samplingOf(
  fields: SamplingFields,
  more: { seed: number | null | undefined; minTokens: number },
): Sampling {
  return {
    temperature: fields.temperature,
    topK: Math.max(0, fields.top_k),
    topP: fields.top_p,
    minP: fields.min_p,
    seed: more.seed ?? Math.floor(Math.random() * 2 ** 32),
    presencePenalty: fields.presence_penalty,
    frequencyPenalty: fields.frequency_penalty,
    repetitionPenalty: fields.repetition_penalty,
    logitBias: fields.logit_bias ?? undefined,
    minTokens: more.minTokens,
    ignoreEos: fields.ignore_eos,
    stopTokenIds: fields.stop_token_ids,
  }
}

/** The most answers that one prompt may have. */
const maxSamples = 128

export const samples = (what: string) => v.nullish(integer(what, 1, maxSamples), 1)

/** Taken only with a value that changes nothing. A field that would be ignored otherwise is refused instead. */
export const only = (name: string, what: string, ...neutral: readonly unknown[]) =>
  v.optional(
    v.custom(
      (value) => value === null || neutral.includes(value),
      `${name} is not supported: ${what}`,
    ),
  )

/** The client's own name of its request: one for each prompt is taken, and means nothing here. */
export const rid = v.nullish(
  v.union(
    [v.pipe(v.string(), v.minLength(1), v.maxLength(256)), v.array(v.string())],
    'rid must be a name of 1 to 256 characters',
  ),
)

/** Says something about the request that has no bearing on its answer. */
export const note = v.optional(v.unknown())

/** A scalar, or a list with one for each prompt. */
const oneOrEach = <S extends v.GenericSchema>(schema: S, message: string) =>
  v.optional(
    v.pipe(
      v.unknown(),
      v.transform((value): unknown => (Array.isArray(value) ? value : [value])),
      v.pipe(v.array(v.nullable(schema)), v.minLength(1, message)),
    ),
  )

const room = v.pipe(
  anyInteger('bootstrap_room must be an integer'),
  v.minValue(0n, 'bootstrap_room must not be negative'),
  v.maxValue(2n ** 63n - 1n, 'bootstrap_room must be less than 2^63'),
)

/** What a router adds: where the prompts' caches come from, and under which numbers. */
export const bootstrapFields = {
  bootstrap_host: oneOrEach(
    v.pipe(
      v.string('bootstrap_host must be a string'),
      v.check((text) => isHost(text), 'bootstrap_host must be a host name or an IP address'),
    ),
    'bootstrap_host is an empty list',
  ),
  bootstrap_port: oneOrEach(integer('bootstrap_port', 1, 65535), 'bootstrap_port is an empty list'),
  bootstrap_room: oneOrEach(room, 'bootstrap_room is an empty list'),
} as const

export const streamFields = {
  include_usage: boolean('stream_options.include_usage'),
  continuous_usage_stats: only(
    'stream_options.continuous_usage_stats',
    'ask for include_usage',
    false,
  ),
  // Pads events against who counts their bytes on the way; nothing here is padded.
  include_obfuscation: note,
} as const

/** What clients send of whoever asks, and of how a server is to log it. */
export const notes = {
  user: note,
  metadata: note,
  service_tier: note,
  safety_identifier: note,
  prompt_cache_key: note,
  prompt_cache_retention: note,
  priority: note,
  store: note,
  // Only says where blanks go between special tokens, which have no text here.
  spaces_between_special_tokens: note,
  log_metrics: note,
  no_logs: note,
} as const
