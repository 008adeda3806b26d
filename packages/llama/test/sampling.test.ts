import fc from 'fast-check'
import type { Token } from 'node-llama-cpp'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  decode,
  generate,
  LlamaModel,
  prefill,
  pullModel,
  type Generation,
  type Sampling,
} from '../src/index.ts'
import { logitChanges } from '../src/sampler.ts'
import { History } from '../src/history.ts'
import type { Slot } from '../src/model.ts'
import { resolveSampling } from '../src/sampling.ts'

let model: LlamaModel

beforeAll(async () => {
  const path = await pullModel('smollm2')
  model = await LlamaModel.load({ path, contextLength: 256, sequences: 2, pages: 32 })
})

afterAll(() => model.dispose())

async function collect(generation: Generation): Promise<number[]> {
  const tokens: number[] = []
  for await (const token of generation) tokens.push(token)
  return tokens
}

interface Request {
  tokens: number[]
  maxTokens: number
  sampling: Sampling
}

/** Through prefill and decode, with the cache in pages between them. */
async function disaggregated(request: Request): Promise<number[]> {
  const kv = Int32Array.from({ length: Math.ceil(request.tokens.length / 16) }, (_, i) => i)
  const { firstToken } = await prefill(model, { ...request, pages: { kv }, chunkTokens: 16 })
  return collect(decode(model, { ...request, pages: { kv }, firstToken }))
}

/** Evaluates tokens behind what the sequence holds: the logits of what follows, with nothing done to them. */
async function logitsAfter(slot: Slot, tokens: readonly number[]): Promise<Map<number, number>> {
  const last = tokens.length - 1
  const output = await slot.sequence.controlledEvaluate(
    tokens.map((token, index) =>
      index === last ? [token as Token, { generateNext: { logits: true } }] : (token as Token),
    ),
  )
  return (output[last]?.next as { logits: Map<number, number> }).logits
}

/** Greedy, one definition after the other, as the papers have them. */
async function reference({ tokens, maxTokens, sampling }: Request): Promise<number[]> {
  const answer: number[] = []
  const count = (token: number) => answer.filter((other) => other === token).length
  const ends = (token: number) =>
    new Set(sampling.stopTokenIds).has(token) || (!sampling.ignoreEos && model.isEog(token))
  const slot = await model.slots.acquire()
  try {
    for (let next = tokens; answer.length < maxTokens; next = answer.slice(-1)) {
      const logits = await logitsAfter(slot, next)
      let best = -1
      let most = -Infinity
      for (const [token, raw] of logits) {
        let logit = raw + (sampling.logitBias?.get(token) ?? 0)
        logit -= (sampling.frequencyPenalty ?? 0) * count(token)
        if (count(token) > 0) logit -= sampling.presencePenalty ?? 0
        if (tokens.includes(token) || answer.includes(token)) {
          const by = sampling.repetitionPenalty ?? 1
          logit = logit > 0 ? logit / by : logit * by
        }
        if (answer.length < (sampling.minTokens ?? 0) && ends(token)) continue
        if (logit > most) [best, most] = [token, logit]
      }
      if (ends(best)) break
      answer.push(best)
    }
    return answer
  } finally {
    await slot.sequence.clearHistory()
    model.slots.release(slot)
  }
}

const story = () => model.tokenize('One day the fox met a dog, and the fox said to the dog: the')
const chat = () => model.tokenize('<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n')
const greedy = (request: Omit<Request, 'sampling'>) =>
  collect(generate(model, { ...request, sampling: {} }))

test.each<[string, Sampling]>([
  ['presence_penalty', { presencePenalty: 2 }],
  ['frequency_penalty', { frequencyPenalty: 1.5 }],
  ['a frequency penalty that rewards', { frequencyPenalty: -1.5 }],
  ['repetition_penalty', { repetitionPenalty: 1.8 }],
  ['all three', { presencePenalty: 0.5, frequencyPenalty: 0.5, repetitionPenalty: 1.2 }],
])('%s gives the tokens of its definition, in one process and in two', async (_, sampling) => {
  const tokens = model.tokenize('A poem about rain:')
  const request = { tokens, maxTokens: 16, sampling }
  const expected = await reference(request)
  expect(await collect(generate(model, request))).toEqual(expected)
  expect(await disaggregated(request)).toEqual(expected)
  expect(expected).not.toEqual(await greedy(request))
})

test('logit_bias moves the first token, which prefill samples, and the others alike', async () => {
  const tokens = story()
  const [first = 0, second = 0] = await greedy({ tokens, maxTokens: 2 })
  const sampling = { logitBias: new Map([first, second].map((token) => [token, -100])) }
  const request = { tokens, maxTokens: 8, sampling }
  const expected = await reference(request)
  expect(expected[0]).not.toBe(first)
  expect(await collect(generate(model, request))).toEqual(expected)
  expect(await disaggregated(request)).toEqual(expected)
  const forced = { ...request, sampling: { logitBias: new Map([[second, 100]]) } }
  expect(await disaggregated(forced)).toEqual(Array.from({ length: 8 }, () => second))
})

test('an answer has min_tokens before it may end', async () => {
  const tokens = chat()
  const free = await greedy({ tokens, maxTokens: 150 })
  const request = { tokens, maxTokens: free.length + 6, sampling: { minTokens: free.length + 4 } }
  const longer = await collect(generate(model, request))
  expect(longer.length).toBeGreaterThanOrEqual(free.length + 4)
  expect(longer.slice(0, free.length)).toEqual(free)
  expect(longer.some((token) => model.isEog(token))).toBe(false)
  expect(await disaggregated(request)).toEqual(longer)
})

test('with ignore_eos an answer goes on behind the token that would end it', async () => {
  const tokens = chat()
  const free = await greedy({ tokens, maxTokens: 150 })
  const request = { tokens, maxTokens: free.length + 6, sampling: { ignoreEos: true } }
  const longer = await collect(generate(model, request))
  expect(longer).toHaveLength(free.length + 6)
  expect(model.isEog(longer[free.length] ?? -1)).toBe(true)
  expect(await disaggregated(request)).toEqual(longer)
})

test('a token of stop_token_ids ends the answer, is no part of it, and waits for min_tokens', async () => {
  const tokens = story()
  const free = await greedy({ tokens, maxTokens: 12 })
  const stop = free[5] ?? 0
  const before = free.slice(0, free.indexOf(stop))
  const request = { tokens, maxTokens: 12, sampling: { stopTokenIds: [stop] } }
  const generation = generate(model, request)
  expect(await collect(generation)).toEqual(before)
  expect(generation.finishReason).toBe('stop')
  expect(await disaggregated(request)).toEqual(before)
  const patient = { ...request, sampling: { stopTokenIds: [stop], minTokens: 10, ignoreEos: true } }
  expect(await reference(patient)).toEqual(await disaggregated(patient))
  expect((await disaggregated(patient)).length).toBeGreaterThanOrEqual(10)
})

test.each<[string, Sampling]>([
  ['top_k of 1', { topK: 1 }],
  ['min_p of 1', { minP: 1 }],
])('%s leaves only the most probable token, at any temperature', async (_, only) => {
  const request = { tokens: story(), maxTokens: 6 }
  const sampling = { ...only, temperature: 5, seed: 11 }
  expect(await disaggregated({ ...request, sampling })).toEqual(await greedy(request))
  const free = { ...request, sampling: { temperature: 5, seed: 11 } }
  expect(await disaggregated(free)).not.toEqual(await greedy(request))
})

test('whatever the settings are, prefill and decode give the tokens of one process', async () => {
  const bias = fc.array(
    fc.tuple(fc.integer({ min: 0, max: 49_151 }), fc.integer({ min: -100, max: 5 })),
    { maxLength: 4 },
  )
  const number = (min: number, max: number) => fc.double({ min, max, noNaN: true })
  const settings = fc.record({
    temperature: fc.constantFrom(0, 0.7, 1.3),
    topK: fc.constantFrom(0, 3, 40),
    topP: fc.constantFrom(1, 0.6),
    minP: fc.constantFrom(0, 0.1),
    seed: fc.nat(),
    presencePenalty: number(-2, 2),
    frequencyPenalty: number(-2, 2),
    repetitionPenalty: fc.constantFrom(1, 0.8, 1.3),
    logitBias: bias.map((entries) => new Map(entries)),
    minTokens: fc.constantFrom(0, 4),
    ignoreEos: fc.boolean(),
    stopTokenIds: fc.array(fc.integer({ min: 0, max: 1000 }), { maxLength: 3 }),
  })
  await fc.assert(
    fc.asyncProperty(settings, fc.integer({ min: 1, max: 40 }), async (sampling, length) => {
      const tokens = [...story(), ...chat(), ...story()].slice(0, length)
      const request = { tokens, maxTokens: 6, sampling }
      expect(await disaggregated(request)).toEqual(await collect(generate(model, request)))
    }),
    { numRuns: 12 },
  )
})

test('a request draws the same token when it comes again to the same sequence', async () => {
  const request = { tokens: story(), maxTokens: 1, sampling: { temperature: 3, seed: 5 } }
  const drawn = new Set<number>()
  for (let i = 0; i < 6; i++) {
    const [token = -1] = await collect(generate(model, request))
    drawn.add(token)
  }
  expect(drawn.size).toBe(1)
})

test('what was sampled leaves no memory behind that waits for the garbage collector', async () => {
  // A sampler that is not used again keeps 590 KB, so 150 of them would be 88 MB.
  const request = {
    tokens: chat(),
    maxTokens: 150,
    sampling: { temperature: 1, ignoreEos: true, seed: 1 },
  }
  await collect(generate(model, { ...request, maxTokens: 20 }))
  const before = process.memoryUsage.rss()
  expect(await collect(generate(model, request))).toHaveLength(150)
  expect((process.memoryUsage.rss() - before) / 1e6).toBeLessThan(30)
})

test('penalties count the answer only, and as often as it has a token', () => {
  const history = new History([7, 7, 8], 4)
  for (const token of [9, 9, 10]) history.push(token)
  const sampling = resolveSampling({
    presencePenalty: 1,
    frequencyPenalty: 0.5,
    logitBias: new Map([
      [7, 3],
      [10, 2],
    ]),
  })
  expect(logitChanges(sampling, history, [0])).toEqual(
    new Map([
      [7, 3],
      [9, -2],
      [10, 0.5],
    ]),
  )
  expect([...history.all()]).toEqual([7, 7, 8, 9, 9, 10])
  history.push(11)
  expect([...history.all()]).toEqual([7, 7, 8, 9, 9, 10, 11])
})

test.each<[Sampling, string]>([
  [{ minP: 1.5 }, 'min_p is 1.5, but must be a number from 0 to 1.'],
  [{ presencePenalty: 3 }, 'presence_penalty is 3, but must be a number from -2 to 2.'],
  [{ frequencyPenalty: NaN }, 'frequency_penalty is NaN, but must be a number from -2 to 2.'],
  [{ repetitionPenalty: 0 }, 'repetition_penalty is 0, but must be greater than 0 and at most 10.'],
  [{ logitBias: new Map([[9, 101]]) }, 'logit_bias is 101, but must be a number from -100 to 100.'],
  [{ logitBias: new Map([[99, 1]]) }, 'logit_bias has the token id 99; this model knows 0 to 49.'],
  [{ stopTokenIds: [-1] }, 'stop_token_ids has the token id -1; this model knows 0 to 49.'],
  [{ minTokens: -1 }, 'min_tokens is -1, but must be a whole number of tokens.'],
])('the sampling %j is refused by name', (sampling, message) => {
  expect(() => resolveSampling(sampling, 50)).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_INVALID_ARGUMENT', message }) as Error,
  )
})
