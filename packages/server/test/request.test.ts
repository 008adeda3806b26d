import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isKvxError } from '@kvx/contract'
import { httpError } from '../src/http/errors.ts'
import { parseFields, parseJson, writeFields } from '../src/http/json.ts'
import { chatFields } from '../src/asks/chat.ts'
import { completionFields, parseCompletion } from '../src/asks/completions.ts'
import { generateFields, samplingParams } from '../src/asks/generate.ts'

const refusal = (body: unknown) => {
  try {
    parseCompletion(body)
  } catch (error) {
    if (isKvxError(error)) return httpError(error)
  }
  throw new Error('the request was accepted')
}

test('a request with nothing but a prompt gets the defaults of the OpenAI interface', () => {
  const request = parseCompletion({ prompt: 'Hello' })
  expect(request).toMatchObject({
    prompts: ['Hello'],
    samples: 1,
    maxTokens: undefined,
    sampling: {
      temperature: 1,
      topK: 0,
      topP: 1,
      minP: 0,
      presencePenalty: 0,
      frequencyPenalty: 0,
      repetitionPenalty: 1,
      logitBias: undefined,
      minTokens: 0,
      ignoreEos: false,
      stopTokenIds: [],
    },
    stop: [],
    stream: false,
    includeUsage: false,
    returnTokenIds: false,
    bootstrap: [{ host: undefined, port: undefined, room: undefined }],
  })
  expect(Number.isInteger(request.sampling.seed)).toBe(true)
})

test('null is the same as absent, and so is a field that is not known and asks for nothing', () => {
  expect(() =>
    parseCompletion({
      prompt: [1, 2],
      model: null,
      max_tokens: null,
      stop: null,
      stream_options: null,
      logprobs: null,
      bootstrap_port: null,
      no_stop_trim: false,
      lora_path: null,
      bad_words: [],
      vllm_xargs: {},
    }),
  ).not.toThrow()
})

/** A value of each field that is honoured, and what becomes of it. */
test('every field that is honoured arrives with its value', () => {
  const request = parseCompletion({
    prompt: 'x',
    max_completion_tokens: 40,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 20,
    min_p: 0.1,
    presence_penalty: -2,
    frequency_penalty: 2,
    repetition_penalty: 1.3,
    logit_bias: { '50256': -100, '7': 1.5 },
    seed: 9,
    min_tokens: 4,
    ignore_eos: true,
    stop_token_ids: [5, 6],
    stop: 'end',
    stream: true,
    stream_options: { include_usage: true },
    return_token_ids: true,
  })
  expect(request).toMatchObject({
    maxTokens: 40,
    sampling: {
      temperature: 0.5,
      topP: 0.9,
      topK: 20,
      minP: 0.1,
      presencePenalty: -2,
      frequencyPenalty: 2,
      repetitionPenalty: 1.3,
      logitBias: new Map([
        [50256, -100],
        [7, 1.5],
      ]),
      seed: 9,
      minTokens: 4,
      ignoreEos: true,
      stopTokenIds: [5, 6],
    },
    stop: ['end'],
    stream: true,
    includeUsage: true,
    returnTokenIds: true,
  })
})

test.each([
  ['what SGLang sends for its bench', { best_of: 1, temperature: 0.0, ignore_eos: true }],
  [
    'what the router of SGLang adds',
    {
      echo: false,
      n: 1,
      no_stop_trim: false,
      skip_special_tokens: true,
      return_hidden_states: false,
    },
  ],
  ['top_k of -1, which is all', { top_k: -1 }],
  ['two names of one number', { max_tokens: 3, max_completion_tokens: 3 }],
  ['notes about who asks', { user: 'somebody', metadata: { a: 'b' }, rid: '7' }],
])('%s is accepted', (_, fields) => {
  expect(() => parseCompletion({ prompt: 'x', ...fields })).not.toThrow()
})

test('a prompt in a list of one is that prompt', () => {
  expect(parseCompletion({ prompt: ['hello'] }).prompts).toEqual(['hello'])
  expect(parseCompletion({ prompt: [[5, 6, 7]] }).prompts).toEqual([[5, 6, 7]])
  expect(parseCompletion({ prompt: [5] }).prompts).toEqual([[5]])
})

test('every field that is known stands in the page about the HTTP interface', () => {
  const page = readFileSync(new URL('../../../docs/http-api.md', import.meta.url), 'utf8')
  const named = new Set([...page.matchAll(/`([a-z_]+)`/g)].map(([, name]) => name))
  const fields = { ...completionFields, ...chatFields, ...generateFields, ...samplingParams }
  expect(Object.keys(fields).filter((name) => !named.has(name))).toEqual([])
})

test.each([
  ['{"prompt":""}', 'The prompt is empty: it must hold at least one token.'],
  ['{"prompt":[]}', 'The prompt is empty: it must hold at least one token.'],
  ['{"prompt":["a", ""]}', 'Prompt 1 is empty: it must hold at least one token.'],
  [
    `{"prompt":${JSON.stringify(Array.from({ length: 257 }, () => 'a'))}}`,
    'The request asks for 257 answers: 256 are possible at a time.',
  ],
  ['{}', 'prompt is missing.'],
  ['{"prompt":7}', 'prompt must be text or token ids, or a list of either.'],
  ['{"prompt":[""]}', 'The prompt is empty: it must hold at least one token.'],
  ['{"prompt":[[]]}', 'The prompt is empty: it must hold at least one token.'],
  ['{"prompt":[[[1]]]}', 'prompt must be text or token ids, or a list of either.'],
  ['{"prompt":[1, -1]}', 'prompt must be text or token ids, or a list of either.'],
  ['{"prompt":"x", "max_tokens":0}', 'max_tokens must be at least 1.'],
  ['{"prompt":"x", "max_tokens":-3}', 'max_tokens must be at least 1.'],
  ['{"prompt":"x", "max_tokens":1.5}', 'max_tokens must be an integer.'],
  ['{"prompt":"x", "max_tokens":"8"}', 'max_tokens must be a number.'],
  ['{"prompt":"x", "temperature":-1}', 'temperature must be at least 0.'],
  ['{"prompt":"x", "top_p":0}', 'top_p must be greater than 0.'],
  [
    '{"prompt":"x", "stop":""}',
    'stop has an empty string: a stop string has at least one character.',
  ],
  [
    '{"prompt":"x", "stop":["a", ""]}',
    'stop has an empty string: a stop string has at least one character.',
  ],
  [
    `{"prompt":"x", "stop":["${'é'.repeat(513)}"]}`,
    'stop has a string that is too long: 1024 bytes are possible.',
  ],
  [
    `{"prompt":"x", "stop":${JSON.stringify(Array.from({ length: 17 }, () => 'a'))}}`,
    'stop has too many strings: 16 are possible.',
  ],
  ['{"prompt":"x", "stop":7}', 'stop must be a string or a list of strings.'],
  ['{"prompt":"x", "stop":["a", 3]}', 'stop must be a string or a list of strings.'],
  ['{"prompt":"x", "stream":"yes"}', 'stream must be true or false.'],
  ['{"prompt":"x", "n":0}', 'n must be at least 1.'],
  ['{"prompt":"x", "best_of":-1}', 'best_of must be at least 1.'],
  [
    '{"prompt":"x", "n":2, "best_of":3}',
    'best_of other than n is not supported: ask for n answers and choose the best.',
  ],
  ['{"prompt":"x", "n":129}', 'n must be at most 128.'],
  [
    '{"prompt":"x", "echo":true}',
    'echo is not supported: join the prompt and its answer yourself.',
  ],
  ['{"prompt":"x", "suffix":"y"}', 'suffix is not supported: leave it out.'],
  [
    '{"prompt":"x", "skip_special_tokens":false}',
    'skip_special_tokens false is not supported: ask for return_token_ids.',
  ],
  [
    '{"prompt":"x", "guided_regex":"a+"}',
    'guided_regex is no field that this server knows: leave it out, or the answer would not be what it asks for.',
  ],
  [
    '{"prompt":"x", "max_new_tokens":5}',
    'max_new_tokens is no field that this server knows: leave it out, or the answer would not be what it asks for.',
  ],
  ['{"prompt":"x", "frequency_penalty":2.5}', 'frequency_penalty must be at most 2.'],
  ['{"prompt":"x", "presence_penalty":"1"}', 'presence_penalty must be a number.'],
  ['{"prompt":"x", "repetition_penalty":0}', 'repetition_penalty must be greater than 0.'],
  ['{"prompt":"x", "top_k":-2}', 'top_k must be at least -1.'],
  ['{"prompt":"x", "min_p":2}', 'min_p must be at most 1.'],
  ['{"prompt":"x", "min_tokens":5, "max_tokens":4}', 'min_tokens is greater than max_tokens.'],
  [
    '{"prompt":"x", "max_tokens":5, "max_completion_tokens":4}',
    'max_tokens and max_completion_tokens differ: give one of them.',
  ],
  [
    '{"prompt":"x", "logit_bias":{"the":1}}',
    'logit_bias must map token ids to numbers, as {"50256": -100}.',
  ],
  ['{"prompt":"x", "logit_bias":{"5":200}}', 'logit_bias must be at most 100.'],
  [
    '{"prompt":"x", "logit_bias":[1]}',
    'logit_bias must map token ids to numbers, as {"50256": -100}.',
  ],
  ['{"prompt":"x", "stop_token_ids":"5"}', 'stop_token_ids must be a list of token ids.'],
  ['{"prompt":"x", "stop_token_ids":[0.5]}', 'stop_token_ids must be a list of token ids.'],
  [
    '{"prompt":"x", "stream_options":{"include_everything":true}}',
    'include_everything is no field that this server knows: leave it out, or the answer would not be what it asks for.',
  ],
  ['{"prompt":"x", "bootstrap_room":-1}', 'bootstrap_room must not be negative.'],
  [
    '{"prompt":"x", "bootstrap_room":9223372036854775808}',
    'bootstrap_room must be less than 2^63.',
  ],
  ['{"prompt":"x", "bootstrap_room":"a"}', 'bootstrap_room must be an integer.'],
  ['{"prompt":"x", "bootstrap_room":[]}', 'bootstrap_room is an empty list.'],
  [
    '{"prompt":"x", "bootstrap_room":[1, 2]}',
    'bootstrap_room has 2 entries for 1 prompts: give one for each.',
  ],
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
  const { bootstrap } = parseCompletion({
    prompt: 'x',
    bootstrap_host: ['::1'],
    bootstrap_port: [8998],
    bootstrap_room: [5],
  })
  expect(bootstrap).toEqual([{ host: '::1', port: 8998, room: 5n }])
})

test('of several prompts each has its own room: that of its place in a list, or the scalar and its place', () => {
  const rooms = (fields: object) =>
    parseCompletion(parseJson(writeFields(new Map(Object.entries(fields))))).bootstrap.map(
      ({ room }) => room,
    )
  const prompt = '["a","b","c"]'
  const large = String(2n ** 62n + 1n)
  expect(rooms({ prompt, bootstrap_room: large })).toEqual(
    [0n, 1n, 2n].map((i) => 2n ** 62n + 1n + i),
  )
  expect(rooms({ prompt, bootstrap_room: `[7, ${large}, 9]` })).toEqual([7n, 2n ** 62n + 1n, 9n])
  // A router that counts answers sends as many; a prompt is sent once, so the first of them counts.
  expect(rooms({ prompt, n: '2', bootstrap_room: '[1,2,3,4,5,6]' })).toEqual([1n, 3n, 5n])
  expect(rooms({ prompt: '"a"', n: '2', bootstrap_room: '[4,5]' })).toEqual([4n])
  // The number after the last one that fits is the first again.
  const last = String(2n ** 63n - 1n)
  expect(rooms({ prompt: '["a","b"]', bootstrap_room: last })).toEqual([2n ** 63n - 1n, 0n])
})

test('any 64-bit seed is taken and becomes 32 bits', () => {
  for (const seed of [0, -1, 2n ** 63n - 1n, -(2n ** 63n)]) {
    const value = parseCompletion({ prompt: 'x', seed }).sampling.seed ?? -1
    expect(value).toBeGreaterThanOrEqual(0)
    expect(value).toBeLessThan(2 ** 32)
  }
})

test('every room below 2^63 survives a journey through a router and a worker exactly', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), (room) => {
      const client = '{"prompt":"x","temperature":0.10000000149011612,"top_p":1.0}'
      const sent = writeFields(parseFields(client).set('bootstrap_room', String(room)))
      expect(sent).toBe(`${client.slice(0, -1)},"bootstrap_room":${String(room)}}`)
      expect(parseCompletion(parseJson(sent)).bootstrap[0]?.room).toBe(room)
    }),
  )
})

test.each(['', '{', '{"prompt": }', 'prompt=x', '{"a":1}{'])(
  'a body that is no JSON is refused, not crashed upon: %.12j',
  (text) => {
    expect(() => parseJson(text)).toThrow(/^The body is not valid JSON: /)
  },
)
