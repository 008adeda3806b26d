/** What a client may ask for: OpenAI's completions, and the three fields a router adds. */
import * as v from 'valibot'
import { isHost } from '@kvx/core'
import { KvxError } from '@kvx/core/backend'

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

const stopString = v.pipe(
  v.string('stop must be a string or a list of strings'),
  v.minLength(1, 'a stop string must not be empty'),
)

/** A request we would answer wrongly if we ignored the field is refused instead. */
const onlyOne = (what: string) =>
  v.nullish(v.literal(1, `${what} greater than 1 is not supported: send one request per answer`))
const unsupported = (what: string, ...harmless: readonly unknown[]) =>
  v.optional(v.custom((value) => harmless.includes(value), `${what} is not supported`))

const schema = v.object(
  {
    model: v.nullish(v.string('model must be a string')),
    prompt: v.union(
      [
        v.string(),
        v.array(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 31 - 1))),
      ],
      'prompt must be a string or a list of token ids',
    ),
    max_tokens: v.nullish(integer('max_tokens', 1, 2 ** 31 - 1), 16),
    temperature: v.nullish(
      v.pipe(
        v.number('temperature must be a number'),
        v.minValue(0, 'temperature must not be negative'),
        v.maxValue(2, 'temperature must be at most 2'),
      ),
      1,
    ),
    top_p: v.nullish(
      v.pipe(
        v.number('top_p must be a number'),
        v.gtValue(0, 'top_p must be greater than 0'),
        v.maxValue(1, 'top_p must be at most 1'),
      ),
      1,
    ),
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
    stop: v.nullish(
      v.union(
        [
          v.pipe(
            stopString,
            v.transform((text) => [text]),
          ),
          v.pipe(v.array(stopString), v.maxLength(16, 'at most 16 stop strings are allowed')),
        ],
        (issue) => issue.issues?.[0]?.message ?? 'stop must be a string or a list of strings',
      ),
      [],
    ),
    stream: boolean('stream'),
    stream_options: v.nullish(
      v.object(
        { include_usage: boolean('stream_options.include_usage') },
        'stream_options must be an object',
      ),
    ),
    return_token_ids: boolean('return_token_ids'),
    n: onlyOne('n'),
    best_of: onlyOne('best_of'),
    echo: unsupported('echo', null, false),
    logprobs: unsupported('logprobs', null, false, 0),
    suffix: unsupported('suffix', null, ''),
    bootstrap_host: v.optional(
      single(
        v.pipe(
          v.string('bootstrap_host must be a string'),
          v.check(isHost, 'bootstrap_host must be a host name or an IP address'),
        ),
      ),
    ),
    bootstrap_port: v.optional(single(integer('bootstrap_port', 1, 65535))),
    bootstrap_room: v.optional(single(room)),
  },
  'the body must be a JSON object',
)

export interface CompletionRequest {
  readonly model: string | undefined
  /** Text, or token ids. */
  readonly prompt: string | readonly number[]
  readonly maxTokens: number
  readonly temperature: number
  readonly topP: number
  /** 32 bits. Drawn at random when the client gave none. */
  readonly seed: number
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
    const message =
      issue.kind === 'schema' && issue.type === 'object' && issue.received === 'undefined'
        ? `${v.getDotPath(issue) ?? 'a field'} is missing`
        : issue.message
    throw new KvxError('ERR_KVX_INVALID_ARGUMENT', sentence(message), { phase: 'open' })
  }
  const request = result.output
  if (request.prompt.length === 0) {
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      'The prompt is empty: it must hold at least one token.',
      { phase: 'open' },
    )
  }
  return {
    model: request.model ?? undefined,
    prompt: request.prompt,
    maxTokens: request.max_tokens,
    temperature: request.temperature,
    topP: request.top_p,
    seed: request.seed ?? Math.floor(Math.random() * 2 ** 32),
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

/** Field names keep their case, so the first letter stays as it is. */
const sentence = (text: string) => (text.endsWith('.') ? text : `${text}.`)
