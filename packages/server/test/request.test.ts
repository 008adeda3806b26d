import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isKvxError } from '@kvx/core/backend'
import { httpError } from '../src/http/errors.ts'
import { parseJson, parseJsonVerbatim, toJson } from '../src/http/json.ts'
import { parseCompletionRequest } from '../src/http/request.ts'

const refusal = (body: unknown) => {
  try {
    parseCompletionRequest(body)
  } catch (error) {
    if (isKvxError(error)) return httpError(error)
  }
  throw new Error('the request was accepted')
}

test('a request with nothing but a prompt gets the defaults of the OpenAI interface', () => {
  const request = parseCompletionRequest({ prompt: 'Hello' })
  expect(request).toMatchObject({
    prompt: 'Hello',
    maxTokens: 16,
    temperature: 1,
    topP: 1,
    stop: [],
    stream: false,
    includeUsage: false,
    returnTokenIds: false,
    bootstrap: { host: undefined, port: undefined, room: undefined },
  })
  expect(Number.isInteger(request.seed)).toBe(true)
})

test('null is the same as absent, and fields that are not ours are passed over', () => {
  expect(() =>
    parseCompletionRequest({
      prompt: [1, 2],
      model: null,
      max_tokens: null,
      stop: null,
      stream_options: null,
      logprobs: null,
      bootstrap_port: null,
      no_stop_trim: false,
      lora_path: null,
    }),
  ).not.toThrow()
})

test.each([
  ['{"prompt":""}', 'The prompt is empty: it must hold at least one token.'],
  ['{"prompt":[]}', 'The prompt is empty: it must hold at least one token.'],
  ['{}', 'prompt is missing.'],
  ['{"prompt":7}', 'prompt must be a string or a list of token ids.'],
  ['{"prompt":["a", "b"]}', 'prompt must be a string or a list of token ids.'],
  ['{"prompt":[1, -1]}', 'prompt must be a string or a list of token ids.'],
  ['{"prompt":"x", "max_tokens":0}', 'max_tokens must be at least 1.'],
  ['{"prompt":"x", "max_tokens":-3}', 'max_tokens must be at least 1.'],
  ['{"prompt":"x", "max_tokens":1.5}', 'max_tokens must be an integer.'],
  ['{"prompt":"x", "max_tokens":"8"}', 'max_tokens must be a number.'],
  ['{"prompt":"x", "temperature":-1}', 'temperature must not be negative.'],
  ['{"prompt":"x", "top_p":0}', 'top_p must be greater than 0.'],
  ['{"prompt":"x", "stop":""}', 'a stop string must not be empty.'],
  ['{"prompt":"x", "stop":["a", 3]}', 'stop must be a string or a list of strings.'],
  ['{"prompt":"x", "stream":"yes"}', 'stream must be true or false.'],
  ['{"prompt":"x", "n":2}', 'n greater than 1 is not supported: send one request per answer.'],
  ['{"prompt":"x", "echo":true}', 'echo is not supported.'],
  ['{"prompt":"x", "bootstrap_room":-1}', 'bootstrap_room must not be negative.'],
  [
    '{"prompt":"x", "bootstrap_room":9223372036854775808}',
    'bootstrap_room must be less than 2^63.',
  ],
  ['{"prompt":"x", "bootstrap_room":"a"}', 'bootstrap_room must be an integer.'],
  ['{"prompt":"x", "bootstrap_room":[1, 2]}', 'bootstrap_room must be an integer.'],
  ['{"prompt":"x", "bootstrap_port":70000}', 'bootstrap_port must be at most 65535.'],
  ['{"prompt":"x", "bootstrap_host":"!x"}', 'bootstrap_host must be a host name or an IP address.'],
  ['[1]', 'the body must be a JSON object.'],
  ['null', 'the body must be a JSON object.'],
])('%s is refused with one clear sentence', (body, message) => {
  expect(refusal(parseJson(body))).toEqual({
    status: 400,
    body: {
      error: {
        ...{ message, type: 'invalid_request_error', code: 'ERR_KVX_INVALID_ARGUMENT' },
        ...{ phase: 'open', peer: null, rank: null, retryable: false },
      },
    },
  })
})

test('routers may send the bootstrap fields as lists of one', () => {
  const { bootstrap } = parseCompletionRequest({
    prompt: 'x',
    bootstrap_host: ['::1'],
    bootstrap_port: [8998],
    bootstrap_room: [5],
  })
  expect(bootstrap).toEqual({ host: '::1', port: 8998, room: 5n })
})

test('any 64-bit seed is taken and becomes 32 bits', () => {
  for (const seed of [0, -1, 2n ** 63n - 1n, -(2n ** 63n)]) {
    const value = parseCompletionRequest({ prompt: 'x', seed }).seed
    expect(value).toBeGreaterThanOrEqual(0)
    expect(value).toBeLessThan(2 ** 32)
  }
})

test('every room below 2^63 survives a journey through a router and a worker exactly', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), (room) => {
      const client = '{"prompt":"x","temperature":0.10000000149011612,"top_p":1.0}'
      const sent = toJson({ ...(parseJsonVerbatim(client) as object), bootstrap_room: room })
      expect(sent).toBe(`${client.slice(0, -1)},"bootstrap_room":${String(room)}}`)
      expect(parseCompletionRequest(parseJson(sent)).bootstrap.room).toBe(room)
    }),
  )
})

test.each(['', '{', '{"prompt": }', 'prompt=x', '{"a":1}{', '['.repeat(200_000)])(
  'a body that is no JSON is refused, not crashed upon: %.12j',
  (text) => {
    expect(() => parseJson(text)).toThrow(/^The body is not valid JSON: /)
  },
)
