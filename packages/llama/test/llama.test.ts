import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import {
  decode,
  generate,
  LlamaModel,
  prefill,
  pullModel,
  type Generation,
  type PrefillChunk,
  type Sampling,
} from '../src/index.ts'
import { checkState, describeState } from '../src/state/blob.ts'
import { Sampler } from '../src/sampler.ts'
import { saveState, StateMemory } from '../src/state/scratch.ts'

// Two models as prefill and decode have them, with another number of sequences and pages, and one that
// does both.
let prefiller: LlamaModel
let decoder: LlamaModel
let standalone: LlamaModel

beforeAll(async () => {
  const path = await pullModel('smollm2')
  const shared = { path, contextLength: 1024, chunkTokens: 256 }
  prefiller = await LlamaModel.load({ ...shared, pages: 64 })
  decoder = await LlamaModel.load({ ...shared, sequences: 3, pages: 80 })
  standalone = await LlamaModel.load({ ...shared, sequences: 3 })
})

afterAll(async () => {
  await Promise.all([prefiller.dispose(), decoder.dispose(), standalone.dispose()])
})

const filler = 'Context: the quick brown fox jumps over the lazy dog near the river bank. '

function promptOf(tokens: number, question = 'One day the fox met a dog and said'): number[] {
  const text = filler.repeat(Math.ceil(tokens / 16)) + question
  return standalone.tokenize(text).slice(-tokens)
}

async function collect(generation: Generation): Promise<number[]> {
  const tokens: number[] = []
  for await (const token of generation) tokens.push(token)
  return tokens
}

const bytesPerPage = ({ cache }: LlamaModel) =>
  cache.place.tensors.reduce((sum, { pageBytes }) => sum + pageBytes, 0)

/** As a transfer engine would: page by page, to other page numbers of another pool. */
function copyPages(
  source: Int32Array,
  target: Int32Array,
  [from, to]: readonly [number, number],
): void {
  prefiller.cache.place.tensors.forEach((tensor, index) => {
    const other = decoder.cache.place.tensors[index]
    if (!other) throw new Error('layouts differ')
    for (let i = from; i < to; i++) {
      const bytes = prefiller.memory.view?.(
        tensor.base + (source[i] ?? 0) * tensor.pageBytes,
        tensor.pageBytes,
      )
      const place = decoder.memory.view?.(
        other.base + (target[i] ?? 0) * other.pageBytes,
        other.pageBytes,
      )
      if (!bytes || !place) throw new Error('no view')
      place.set(bytes)
    }
  })
}

interface Run {
  tokens: number[]
  chunks: PrefillChunk[]
  generation: Generation
}

/** One request through prefill, copied pages, and decode. Decode's pages begin at `firstPage`. */
async function disaggregated(
  tokens: number[],
  maxTokens: number,
  options: { sampling?: Sampling; chunkTokens?: number; firstPage?: number } = {},
): Promise<Run> {
  const { sampling, chunkTokens, firstPage = 0 } = options
  const count = Math.ceil(tokens.length / 16)
  const source = Int32Array.from({ length: count }, (_, i) => 63 - firstPage - i)
  const target = Int32Array.from({ length: count }, (_, i) => firstPage + ((i + 3) % count))
  const chunks: PrefillChunk[] = []
  const { firstToken } = await prefill(prefiller, {
    tokens,
    pages: { kv: source },
    sampling,
    chunkTokens,
    onChunk: (chunk) => {
      chunks.push(chunk)
      copyPages(source, target, chunk.pages.kv ?? [0, 0])
    },
  })
  const generation = decode(decoder, {
    tokens,
    pages: { kv: target },
    firstToken,
    maxTokens,
    sampling,
  })
  return { tokens: await collect(generation), chunks, generation }
}

const seeded: Sampling = { temperature: 0.8, topK: 40, topP: 0.95, seed: 4242 }

test.each([
  ['greedy, in one chunk', undefined, 256, 60],
  ['greedy, in chunks of 37', undefined, 37, 100],
  ['greedy, in chunks of 37 with a remainder of one', undefined, 37, 112],
  ['seeded, in chunks of 37', seeded, 37, 75],
  ['seeded, in chunks of a page', seeded, 16, 64],
])(
  'prefill and decode give the tokens of a standalone run: %s',
  async (_, sampling, chunkTokens, length) => {
    const tokens = promptOf(length)
    const reference = generate(standalone, { tokens, maxTokens: 20, sampling })
    const expected = await collect(reference)
    const run = await disaggregated(tokens, 20, { ...(sampling && { sampling }), chunkTokens })
    expect(run.tokens).toEqual(expected)
    expect(run.generation.finishReason).toBe(reference.finishReason)
    expect(expected.length).toBeGreaterThan(8)
  },
)

test.each([
  ['one page', 16, 60],
  ['all but the last two tokens', 48, 50],
  ['more than a chunk', 64, 130],
])(
  'a prompt whose beginning is cached already has the same cache and first token, of which the rest alone is computed: %s',
  async (_, cachedTokens, length) => {
    const tokens = promptOf(length)
    const count = Math.ceil(length / 16)
    const [whole, reused] = [0, 20].map((from) =>
      Int32Array.from({ length: count }, (_, i) => from + i),
    )
    if (!whole || !reused) throw new Error('no pages')
    const expected = await prefill(prefiller, { tokens, pages: { kv: whole }, chunkTokens: 37 })
    // Another prompt that begins alike was there before.
    const other = [...tokens.slice(0, cachedTokens), ...promptOf(8, 'Something else')]
    const first = { kv: reused.subarray(0, Math.ceil(other.length / 16)) }
    await prefill(prefiller, { tokens: other, pages: first })
    const ranges: (readonly [number, number])[] = []
    const result = await prefill(prefiller, {
      ...{ tokens, pages: { kv: reused }, cachedTokens, chunkTokens: 37 },
      onChunk: (chunk) => {
        ranges.push(chunk.tokens)
      },
    })
    expect(result.firstToken).toBe(expected.firstToken)
    expect(ranges[0]?.[0]).toBe(cachedTokens)
    for (const { base, pageBytes } of prefiller.cache.place.tensors) {
      const bytesOf = (pages: Int32Array) =>
        [...pages].map((page) => prefiller.memory.view?.(base + page * pageBytes, pageBytes))
      const full = Math.floor(length / 16)
      expect(bytesOf(reused.subarray(0, full))).toEqual(bytesOf(whole.subarray(0, full)))
    }
  },
)

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0)

test('log probabilities are those of the model, whatever changes the choice of tokens, and the same through two processes', async () => {
  const tokens = promptOf(60)
  const plain = generate(standalone, { tokens, maxTokens: 6, sampling: { topLogprobs: 5 } })
  const greedyTokens = await collect(plain)
  expect(plain.logprobs).toHaveLength(6)
  for (const [i, { logprob, top }] of plain.logprobs.entries()) {
    expect(top).toHaveLength(5)
    expect(top[0]).toEqual([greedyTokens[i], logprob])
    const values = top.map(([, value]) => value)
    expect(values).toEqual([...values].sort((a, b) => b - a))
    expect(sum(values.map(Math.exp))).toBeLessThan(1.000_01)
  }
  // A bias that decides the first token changes its choice, and not what the model thinks of it.
  const [second, itsLogprob] = plain.logprobs[0]?.top[1] ?? [-1, 0]
  const sampling = { topLogprobs: 5, logitBias: new Map([[second, 100]]) }
  const biased = generate(standalone, { tokens, maxTokens: 1, sampling })
  expect(await collect(biased)).toEqual([second])
  expect(biased.logprobs[0]?.logprob).toBe(itsLogprob)

  const pages = { kv: Int32Array.of(0, 1, 2, 3) }
  const { firstToken, firstLogprobs } = await prefill(prefiller, {
    ...{ tokens, pages, sampling: { topLogprobs: 5 }, samples: 2 },
    onChunk: (chunk) => {
      copyPages(pages.kv, pages.kv, chunk.pages.kv ?? ([0, 0] as const))
    },
  })
  expect(firstLogprobs).toEqual([plain.logprobs[0], plain.logprobs[0]])
  const split = decode(decoder, {
    ...{ tokens, pages, firstToken, maxTokens: 6, sampling: { topLogprobs: 5 } },
    firstLogprobs: firstLogprobs[0],
  })
  expect(await collect(split)).toEqual(greedyTokens)
  expect(split.logprobs).toEqual(plain.logprobs)
})

test('all probabilities of a place add up to one', async () => {
  const tokens = promptOf(20)
  const run = generate(standalone, { tokens, maxTokens: 1, sampling: { topLogprobs: 20 } })
  await collect(run)
  const top = run.logprobs[0]?.top ?? []
  // What is left for all others is what the least of these allows.
  const told = sum(top.map(([, value]) => Math.exp(value)))
  const least = Math.exp(top.at(-1)?.[1] ?? 0)
  expect(told + least * (standalone.vocabularySize - 20)).toBeGreaterThan(1)
})

test.each([1, 40, 99])(
  'the tokens of a prompt are scored from token %i on, as if each were an answer to those before',
  async (from) => {
    const tokens = promptOf(100)
    const pages = { kv: Int32Array.from({ length: 7 }, (_, i) => i) }
    const { firstToken, scores } = await prefill(prefiller, {
      ...{ tokens, pages, scoring: { from, top: 2 } },
    })
    expect(scores).toHaveLength(100 - from)
    const unscored = await prefill(prefiller, { tokens, pages })
    expect(unscored.firstToken).toBe(firstToken)
    expect(unscored.scores).toEqual([])
    const at = 99
    const answer = generate(standalone, {
      ...{ tokens: tokens.slice(0, at), maxTokens: 1 },
      sampling: { topLogprobs: 20, logitBias: new Map([[tokens[at] ?? 0, 100]]) },
    })
    expect(await collect(answer)).toEqual([tokens[at]])
    expect(scores.at(-1)?.logprob).toBe(answer.logprobs[0]?.logprob)
  },
)

test.each([17, -16, 48, 64])(
  '%i tokens of a prompt of 49 cannot be cached',
  async (cachedTokens) => {
    const pages = { kv: Int32Array.of(0, 1, 2, 3) }
    await expect(
      prefill(prefiller, { tokens: promptOf(49), pages, cachedTokens }),
    ).rejects.toMatchObject({ code: 'ERR_KVX_INVALID_ARGUMENT' })
  },
)

test('another seed gives another answer', async () => {
  const tokens = promptOf(40)
  const one = await collect(generate(standalone, { tokens, maxTokens: 16, sampling: seeded }))
  const other = { ...seeded, seed: 4243 }
  const two = await collect(generate(standalone, { tokens, maxTokens: 16, sampling: other }))
  expect(one).not.toEqual(two)
})

test('pages come once each and in order; a page that is not full waits for the next chunk', async () => {
  const { chunks } = await disaggregated(promptOf(100), 1, { chunkTokens: 37 })
  expect(chunks).toEqual([
    { tokens: [0, 37], pages: { kv: [0, 2] }, last: false },
    { tokens: [37, 74], pages: { kv: [2, 4] }, last: false },
    { tokens: [74, 100], pages: { kv: [4, 7] }, last: true },
  ])
})

test('chunks are given one at a time, the next when the caller has taken the one before', async () => {
  const tokens = promptOf(24)
  const events: string[] = []
  const pages = Int32Array.from({ length: 2 }, (_, i) => i)
  let computed = 0
  const { chunks } = await prefill(prefiller, {
    tokens,
    pages: { kv: pages },
    chunkTokens: 8,
    onChunk: async ({ tokens: [, end] }) => {
      events.push(`computed ${String(end)}`)
      computed++
      await new Promise((resolve) => setImmediate(resolve))
      events.push(`taken ${String(end)}`)
    },
  })
  expect(chunks).toBe(3)
  expect(computed).toBe(3)
  expect(events).toEqual(
    [8, 16, 24].flatMap((end) => [`computed ${String(end)}`, `taken ${String(end)}`]),
  )
})

test('the next chunk is computed while the caller takes the one before', async () => {
  let tell: () => void = () => undefined
  const nextIsComputed = new Promise<void>((resolve) => {
    tell = resolve
  })
  const original = Sampler.prototype.next
  const watched = vi.spyOn(Sampler.prototype, 'next')
  watched.mockImplementation(async function (this: Sampler, ...args) {
    const sampled = await original.apply(this, args)
    tell()
    return sampled
  })
  try {
    const taken: number[] = []
    await prefill(prefiller, {
      ...{ tokens: promptOf(16), pages: { kv: Int32Array.of(0) }, chunkTokens: 8 },
      onChunk: async ({ tokens: [, end] }) => {
        await nextIsComputed
        taken.push(end)
      },
    })
    expect(taken).toEqual([8, 16])
  } finally {
    watched.mockRestore()
  }
})

test('decode computes the answer and nothing of the prompt', async () => {
  const { tokens, generation } = await disaggregated(promptOf(48), 8)
  expect(generation.finishReason).toBe('length')
  expect(tokens).toHaveLength(8)
  expect(generation.evaluatedTokens).toBe(7)
})

test('an answer that the model ends is evaluated to its last token, and the end is no token of it', async () => {
  const text = '<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n'
  const tokens = standalone.tokenize(text)
  const reference = generate(standalone, { tokens, maxTokens: 200 })
  const expected = await collect(reference)
  const run = await disaggregated(tokens, 200)
  expect(run.tokens).toEqual(expected)
  expect(run.generation.finishReason).toBe('stop')
  expect(run.generation.evaluatedTokens).toBe(expected.length)
  expect(expected.some((token) => standalone.isEog(token))).toBe(false)
})

test('several requests at a time, more than there are sequences, give what each gives alone', async () => {
  const requests = [
    { tokens: promptOf(20), sampling: undefined },
    { tokens: promptOf(33, 'How do I make pancakes?'), sampling: seeded },
    { tokens: promptOf(47, 'Write a haiku about the sea.'), sampling: undefined },
    { tokens: promptOf(5, 'What is the capital of France?'), sampling: { ...seeded, seed: 7 } },
    { tokens: promptOf(61, 'List five uses for a paperclip.'), sampling: { ...seeded, seed: 8 } },
  ]
  const alone: number[][] = []
  for (const request of requests) {
    alone.push(await collect(generate(standalone, { ...request, maxTokens: 8 })))
  }
  const together = await Promise.all(
    requests.map((request) => collect(generate(standalone, { ...request, maxTokens: 8 }))),
  )
  expect(together).toEqual(alone)

  const moved = await Promise.all(
    requests.map(async ({ tokens, sampling }, index) => {
      const run = await disaggregated(tokens, 8, {
        ...(sampling && { sampling }),
        firstPage: index * 4,
      })
      return run.tokens
    }),
  )
  expect(moved).toEqual(alone)
  expect(decoder.slots.free).toBe(3)
  expect(prefiller.slots.free).toBe(1)
})

test('beside a running answer a prompt has the same cache, bit for bit, and need not wait for its end', async () => {
  const tokens = promptOf(64)
  const alone = Int32Array.of(0, 1, 2, 3)
  const beside = Int32Array.of(10, 11, 12, 13)
  const { firstToken } = await prefill(decoder, { tokens, pages: { kv: alone }, chunkTokens: 16 })
  const expected = await collect(
    decode(decoder, { tokens, pages: { kv: alone }, firstToken, maxTokens: 4 }),
  )

  const others = new AbortController()
  const running = collect(
    generate(decoder, { tokens: promptOf(9), maxTokens: 500, signal: others.signal }),
  )
  await prefill(decoder, { tokens, pages: { kv: beside }, chunkTokens: 16 })
  const request = { tokens, pages: { kv: beside }, firstToken, maxTokens: 4 }
  expect(await collect(decode(decoder, request))).toEqual(expected)
  others.abort()
  await expect(running).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })

  const { memory } = decoder
  for (const { base, pageBytes } of decoder.cache.place.tensors) {
    const [one, two] = [0, 10].map((page) => memory.view?.(base + page * pageBytes, 4 * pageBytes))
    if (!one || !two) throw new Error('no view')
    expect(Buffer.compare(one, two)).toBe(0)
  }
})

test('pages with other bytes give another answer: decode really reads them', async () => {
  const tokens = promptOf(40)
  const expected = await collect(generate(standalone, { tokens, maxTokens: 8 }))
  const pages = Int32Array.of(0, 1, 2)
  const { firstToken } = await prefill(prefiller, { tokens, pages: { kv: pages } })
  copyPages(pages, pages, [0, 3])
  decoder.memory.view?.(0, bytesPerPage(decoder) * 80).fill(0)
  const wrong = await collect(
    decode(decoder, { tokens, pages: { kv: pages }, firstToken, maxTokens: 8 }),
  )
  expect(wrong).not.toEqual(expected)
})

test('a request that is aborted between chunks stops, and the next one finds an empty sequence', async () => {
  const tokens = promptOf(80)
  const aborted = new AbortController()
  const ends: number[] = []
  const pages = Int32Array.from({ length: 5 }, (_, i) => i)
  await expect(
    prefill(prefiller, {
      tokens,
      pages: { kv: pages },
      chunkTokens: 20,
      signal: aborted.signal,
      onChunk: ({ tokens: [, end] }) => {
        ends.push(end)
        if (end === 40) aborted.abort()
      },
    }),
  ).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  expect(ends).toEqual([20, 40])
  expect(prefiller.slots.free).toBe(1)
  const expected = await collect(generate(standalone, { tokens, maxTokens: 4 }))
  expect((await disaggregated(tokens, 4)).tokens).toEqual(expected)
})

test('a caller that leaves the loop gives its sequence back', async () => {
  for await (const token of generate(standalone, { tokens: promptOf(10), maxTokens: 50 })) {
    expect(token).toBeGreaterThanOrEqual(0)
    break
  }
  expect(standalone.slots.free).toBe(3)
})

test('an abort while decoding ends the iteration with its reason and gives the sequence back', async () => {
  const aborted = new AbortController()
  const run = generate(standalone, { tokens: promptOf(10), maxTokens: 50, signal: aborted.signal })
  const iterate = async (): Promise<void> => {
    let seen = 0
    for await (const token of run) {
      expect(token).toBeGreaterThanOrEqual(0)
      if (++seen === 3) aborted.abort()
    }
  }
  await expect(iterate()).rejects.toMatchObject({ code: 'ERR_KVX_ABORTED' })
  expect(run.finishReason).toBeUndefined()
  expect(standalone.slots.free).toBe(3)
})

test('a failing receiver of chunks fails the prefill with its own error', async () => {
  const pages = Int32Array.of(0, 1)
  const failing = prefill(prefiller, {
    tokens: promptOf(32),
    pages: { kv: pages },
    onChunk: () => {
      throw new Error('the transfer failed')
    },
  })
  await expect(failing).rejects.toThrow('the transfer failed')
  expect(prefiller.slots.free).toBe(1)
})

test('equal files have equal ids, and a page has the bytes that are transferred for it', () => {
  expect(prefiller.id).toBe(decoder.id)
  expect(prefiller.id).toMatch(/^[0-9a-f]{64}$/)
  expect(prefiller.cache.shape.model).toBe(prefiller.id)
  expect(bytesPerPage(prefiller)).toBe(16 * 23_040)
  expect(prefiller.memory.bytes).toBe(64 * 16 * 23_040)
  expect(() => standalone.memory).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_INVALID_STATE' }),
  )
})

test.each([
  ['an empty prompt', [], 1, 'prompt is empty'],
  ['a token id that does not exist', [1, 49_152], 1, '49152'],
  ['no tokens to generate', [1, 2], 0, 'max_tokens is 0'],
  ['a prompt that is too long', Array.from({ length: 1020 }, () => 1), 5, 'context length of 1024'],
])('%s is refused before anything is computed', (_, tokens, maxTokens, message) => {
  const refused = expect.objectContaining({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message: expect.stringContaining(message) as string,
  }) as Error
  expect(() => generate(standalone, { tokens, maxTokens })).toThrow(refused)
})

test('pages that do not fit the prompt are refused', async () => {
  const tokens = promptOf(20)
  for (const pages of [[0], [0, 1, 2], [0, 64], [0, -1], [5, 5]]) {
    await expect(
      prefill(prefiller, { tokens, pages: { kv: Int32Array.from(pages) } }),
    ).rejects.toMatchObject({
      code: 'ERR_KVX_INVALID_ARGUMENT',
    })
  }
})

test('a request fills the context to its last token', async () => {
  const path = await pullModel('smollm2')
  const small = await LlamaModel.load({ path, contextLength: 32 })
  const tokens = promptOf(20)
  const expected = await collect(generate(standalone, { tokens, maxTokens: 12 }))
  expect(await collect(generate(small, { tokens, maxTokens: 12 }))).toEqual(expected)
  expect(expected).toHaveLength(12)
  const running = generate(small, { tokens, maxTokens: 12 })
  const iterator = running[Symbol.asyncIterator]()
  await iterator.next()
  const next = iterator.next()
  await Promise.all([
    small.dispose(),
    expect(next).rejects.toMatchObject({ code: 'ERR_KVX_CLOSED' }),
  ])
  await expect(collect(generate(small, { tokens, maxTokens: 1 }))).rejects.toMatchObject({
    code: 'ERR_KVX_CLOSED',
  })
})

test('a state that llama.cpp saved is accepted for its sequence alone, and is the same after a load', async () => {
  const slot = await standalone.slots.acquire()
  const tokens = promptOf(19)
  const { geometry } = standalone
  const described = describeState(geometry, tokens, slot.place, 'saved')
  const { bytes } = described
  await slot.sequence.evaluateWithoutGeneratingNewTokens(tokens as never)
  const [memory, again] = [new StateMemory(), new StateMemory()]
  const blob = await saveState(slot.sequence, memory, bytes)
  checkState(blob, described)
  expect(() => {
    const elsewhere = { ...slot.place, stream: (slot.place.stream + 1) % 3 }
    checkState(blob, describeState(geometry, tokens, elsewhere, 'saved'))
  }).toThrow(expect.objectContaining({ code: 'ERR_KVX_MODEL_STATE' }))
  await slot.sequence.clearHistory()
  await memory.load(slot.sequence)
  expect((await saveState(slot.sequence, again, bytes)).equals(blob)).toBe(true)
  memory.free()
  again.free()
  await slot.sequence.clearHistory()
  standalone.slots.release(slot)
})

test('a prompt of 4 MiB is refused by its length, and not by bytes that the vocabulary leaves out', async () => {
  const { vocabulary } = standalone
  const refused = standalone.tokenizePrompt('a'.repeat(4 * 2 ** 20))
  await expect(refused).rejects.toMatchObject({
    code: 'ERR_KVX_INVALID_ARGUMENT',
    message: expect.stringContaining('has 4194304 bytes') as string,
  })
  const left = '\u0004'.repeat(50_000)
  expect(standalone.tokenize(left)).toEqual([])
  expect(vocabulary.tellsMoreThan(0, left)).toBe(false)
})

test('text that goes through tokens one by one is the same text', () => {
  const text = 'naïve café 😀 日本語 and plain words'
  const tokens = standalone.tokenize(text)
  const detokenizer = standalone.detokenizer()
  const pieces = tokens.map((token) => detokenizer.push(token))
  expect(pieces.join('') + detokenizer.flush()).toBe(text)
  expect(standalone.detokenize(tokens)).toBe(text)
  for (const piece of pieces) expect(piece).not.toContain('\ufffd')
})
