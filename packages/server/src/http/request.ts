/** What a client may ask for: OpenAI's completions, and the three fields a router adds. */
import * as v from 'valibot'
import { isHost } from '@kvx/core'
import { KvxError } from '@kvx/contract'
import type { Sampling } from '@kvx/llama'

const integer = (what: string, least: number, most: number) =>
  v.pipe(
    v.number(`${what} must be a number`),
    v.integer(`${what} must be an integer`),
    v.minValue(least, `${what} must be at least ${String(least)}`),
    v.maxValue(most, `${what} must be at most ${String(most)}`),
  )

const boolean = (what: string) => v.nullish(v.boolean(`${what} must be true or false`), false)

/** Routers send these as a scalar, or as a list of one when they think in batches. */
const single = <S extends v.GenericSchema>(schema: S) =>
  v.pipe(
    v.unknown(),
    v.transform((value): unknown =>
      Array.isArray(value) && value.length === 1 ? value[0] : value,
    ),
    v.nullish(schema),
  )

const maxRoom = 2n ** 63n - 1n
const room = v.pipe(
  v.union(
    [
      v.bigint(),
      v.pipe(
        v.number(),
        v.integer(),
        v.transform((value) => BigInt(value)),
      ),
    ],
    'bootstrap_room must be an integer',
  ),
  v.minValue(0n, 'bootstrap_room must not be negative'),
  v.maxValue(maxRoom, 'bootstrap_room must be less than 2^63'),
)

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

const isTokenId = (value: unknown) =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31

/** A loop of our own: a schema for each of a hundred thousand ids would hold the event loop for long. */
const tokenIds = (message: string) =>
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

/** A prompt may come as a list of one, as clients that think in batches send it. */
const prompt = v.pipe(
  v.unknown(),
  v.check(
    (value) => !(Array.isArray(value) && value.length > 1 && typeof value[0] !== 'number'),
    'prompt holds several prompts: send one request for each',
  ),
  v.transform((value): unknown =>
    Array.isArray(value) && value.length === 1 && typeof value[0] !== 'number' ? value[0] : value,
  ),
  v.union([v.string(), tokenIds('')], 'prompt must be a string or a list of token ids'),
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

const oneAnswer = (what: string) =>
  v.nullish(
    v.pipe(
      integer(what, 1, Infinity),
      v.maxValue(1, `${what} greater than 1 is not supported: send one request per answer`),
    ),
  )

/** Taken only with a value that changes nothing. A field that would be ignored otherwise is refused instead. */
const only = (name: string, what: string, ...neutral: readonly unknown[]) =>
  v.optional(
    v.custom(
      (value) => value === null || neutral.includes(value),
      `${name} is not supported: ${what}`,
    ),
  )

/** Says something about the request that has no bearing on its answer. */
const note = v.optional(v.unknown())

const streamFields = {
  include_usage: boolean('stream_options.include_usage'),
  // Pads events against who counts their bytes on the way; nothing here is padded.
  include_obfuscation: note,
} as const

/** Every field that is known: honoured, harmless with the value that means nothing, or a note. */
const fields = {
  model: v.nullish(v.string('model must be a string')),
  prompt,
  max_tokens: v.nullish(integer('max_tokens', 1, 2 ** 31 - 1)),
  max_completion_tokens: v.nullish(integer('max_completion_tokens', 1, 2 ** 31 - 1)),
  min_tokens: v.nullish(integer('min_tokens', 0, 2 ** 31 - 1), 0),
  temperature: v.nullish(number('temperature', 0, 2), 1),
  top_p: v.nullish(positive('top_p', 1), 1),
  // -1 and 0 both mean all: clients of vLLM and SGLang send either.
  top_k: v.nullish(integer('top_k', -1, 2 ** 31 - 1), 0),
  min_p: v.nullish(number('min_p', 0, 1), 0),
  presence_penalty: v.nullish(number('presence_penalty', -2, 2), 0),
  frequency_penalty: v.nullish(number('frequency_penalty', -2, 2), 0),
  repetition_penalty: v.nullish(positive('repetition_penalty', 10), 1),
  logit_bias: v.nullish(logitBias),
  seed: v.nullish(
    v.pipe(
      v.union(
        [
          v.bigint(),
          v.pipe(
            v.number(),
            v.integer(),
            v.transform((value) => BigInt(value)),
          ),
        ],
        'seed must be an integer',
      ),
      // Clients send any 64-bit value; a sampler takes 32 bits.
      v.transform((value) => Number(BigInt.asUintN(32, value))),
    ),
  ),
  stop: v.nullish(stop, []),
  stop_token_ids: v.nullish(
    v.pipe(
      tokenIds('stop_token_ids must be a list of token ids'),
      v.maxLength(256, 'stop_token_ids has too many token ids: 256 are possible'),
    ),
    [],
  ),
  ignore_eos: boolean('ignore_eos'),
  stream: boolean('stream'),
  stream_options: v.nullish(v.object(streamFields, 'stream_options must be an object')),
  return_token_ids: boolean('return_token_ids'),
  bootstrap_host: v.optional(
    single(
      v.pipe(
        v.string('bootstrap_host must be a string'),
        v.check((text) => isHost(text), 'bootstrap_host must be a host name or an IP address'),
      ),
    ),
  ),
  bootstrap_port: v.optional(single(integer('bootstrap_port', 1, 65535))),
  bootstrap_room: v.optional(single(room)),

  n: oneAnswer('n'),
  best_of: oneAnswer('best_of'),
  echo: only('echo', 'join the prompt and its answer yourself', false),
  logprobs: only('logprobs', 'leave it out', false),
  prompt_logprobs: only('prompt_logprobs', 'leave it out'),
  suffix: only('suffix', 'leave it out', ''),
  skip_special_tokens: only('skip_special_tokens false', 'ask for return_token_ids', true),
  add_special_tokens: only('add_special_tokens false', 'send the prompt as token ids', true),
  length_penalty: only('length_penalty', 'there is no beam search', 1, 0),

  user: note,
  metadata: note,
  service_tier: note,
  safety_identifier: note,
  prompt_cache_key: note,
  rid: note,
  request_id: note,
  // Only says where blanks go between special tokens, which have no text here.
  spaces_between_special_tokens: note,
  log_metrics: note,
  no_logs: note,
} as const

/** What a client may ask for, by name: for the page that lists it. */
export const fieldNames: readonly string[] = Object.keys(fields)

const schema = v.object(fields, 'the body must be a JSON object')

/** Without the names of all that a list holds. */
const isEmpty = (value: object) =>
  Array.isArray(value) ? value.length === 0 : Object.keys(value).length === 0

/** @returns the first field that is not known and might mean something */
function unknownField(body: object, known: object): string | undefined {
  for (const [name, value] of Object.entries(body) as [string, unknown][]) {
    if (Object.hasOwn(known, name) || value === null || value === false || value === '') continue
    // An empty list or object asks for nothing either.
    if (typeof value === 'object' && isEmpty(value)) continue
    return name
  }
  return undefined
}

export interface CompletionRequest {
  readonly model: string | undefined
  /** Text, or token ids. */
  readonly prompt: string | readonly number[]
  /** Undefined: 16, or as many as the context has room for. */
  readonly maxTokens: number | undefined
  readonly sampling: Sampling
  readonly stop: readonly string[]
  readonly stream: boolean
  readonly includeUsage: boolean
  readonly returnTokenIds: boolean
  readonly bootstrap: {
    readonly host: string | undefined
    readonly port: number | undefined
    readonly room: bigint | undefined
  }
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` with one sentence about the first thing that is wrong. */
export function parseCompletionRequest(body: unknown): CompletionRequest {
  // A list is an object to JavaScript.
  const result = v.safeParse(schema, Array.isArray(body) ? null : body, { abortEarly: true })
  if (!result.success) {
    const [issue] = result.issues
    throw refuse(
      issue.kind === 'schema' && issue.type === 'object' && issue.received === 'undefined'
        ? `${v.getDotPath(issue) ?? 'a field'} is missing`
        : issue.message,
    )
  }
  const request = result.output
  const unknown =
    unknownField(body as object, fields) ??
    unknownField((body as { stream_options?: object | null }).stream_options ?? {}, streamFields)
  if (unknown !== undefined) {
    throw refuse(
      `${unknown.slice(0, 64)} is no field that this server knows: leave it out, or the answer would not be what it asks for`,
    )
  }
  if (request.prompt.length === 0) {
    throw refuse('The prompt is empty: it must hold at least one token')
  }
  const { max_tokens, max_completion_tokens } = request
  const maxTokens = max_tokens ?? max_completion_tokens ?? undefined
  if (maxTokens !== (max_completion_tokens ?? maxTokens)) {
    throw refuse('max_tokens and max_completion_tokens differ: give one of them')
  }
  if (request.min_tokens > (maxTokens ?? Infinity)) {
    throw refuse('min_tokens is greater than max_tokens')
  }
  return {
    model: request.model ?? undefined,
    prompt: request.prompt,
    maxTokens,
    sampling: {
      temperature: request.temperature,
      topK: Math.max(0, request.top_k),
      topP: request.top_p,
      minP: request.min_p,
      seed: request.seed ?? Math.floor(Math.random() * 2 ** 32),
      presencePenalty: request.presence_penalty,
      frequencyPenalty: request.frequency_penalty,
      repetitionPenalty: request.repetition_penalty,
      logitBias: request.logit_bias ?? undefined,
      minTokens: request.min_tokens,
      ignoreEos: request.ignore_eos,
      stopTokenIds: request.stop_token_ids,
    },
    stop: request.stop,
    stream: request.stream,
    includeUsage: request.stream_options?.include_usage ?? false,
    returnTokenIds: request.return_token_ids,
    bootstrap: {
      host: request.bootstrap_host ?? undefined,
      port: request.bootstrap_port ?? undefined,
      room: request.bootstrap_room ?? undefined,
    },
  }
}

const refuse = (message: string) =>
  new KvxError('ERR_KVX_INVALID_ARGUMENT', sentence(message), { phase: 'open' })

/** Field names keep their case, so the first letter stays as it is. */
const sentence = (text: string) => (text.endsWith('.') ? text : `${text}.`)
