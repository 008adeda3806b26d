import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { getLlama, LlamaLogLevel, type LlamaModel as Weights, type Token } from 'node-llama-cpp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generate, LlamaModel, StopMatcher } from '../src/index.ts'
import { tokenizerOf } from '../src/text/native.ts'
import { writeGguf } from './support/gguf.ts'
import { modelWith, tokenizers } from './support/vocabularies.ts'

describe.each(tokenizers)('$name', (tokenizer) => {
  let folder: string
  let model: LlamaModel
  /** The same vocabulary, as llama.cpp has it. */
  let native: Weights

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'kvx-tokenizers-'))
    const path = join(folder, 'model.gguf')
    await writeFile(path, writeGguf(modelWith(tokenizer)))
    model = await LlamaModel.load({ path, contextLength: 30_000, chunkTokens: 64 })
    const llama = await getLlama({
      ...{ gpu: false, build: 'never', skipDownload: true, progressLogs: false },
      logLevel: LlamaLogLevel.error,
    })
    native = await llama.loadModel({ modelPath: path, vocabOnly: true, gpuLayers: 0 })
  })

  afterAll(async () => {
    await model.dispose()
    await native.llama.dispose()
    await rm(folder, { recursive: true })
  })

  const tokens = (minLength: number, maxLength = 24) =>
    fc.array(fc.nat(tokenizer.entries.length - 1), { minLength, maxLength })
  const whole = (text: string) => !text.includes('�')

  function pieces(before: readonly number[], after: readonly number[]): string[] {
    const detokenizer = model.detokenizer(before)
    return [...after.map((token) => detokenizer.push(token)), detokenizer.flush()]
  }

  test('the text of prompt and answer is that of the prompt and the pieces of the answer', () => {
    fc.assert(
      fc.property(tokens(0), tokens(0), (prompt, answer) => {
        // A character that ends in the answer is nobody's.
        fc.pre(whole(model.detokenize(prompt)))
        const both = model.detokenize([...prompt, ...answer])
        expect(model.detokenize(prompt) + pieces(prompt, answer).join('')).toBe(both)
      }),
      { numRuns: 500 },
    )
  })

  test('each token has the bytes that llama.cpp has for it', () => {
    const cleaned = (text: string) => text.replace(/ (?=[?!.,'])/g, '').trimStart()
    for (let token = 0; token < tokenizer.entries.length; token++) {
      const bytes = Buffer.from(model.vocabulary.bytes(token)).toString()
      expect(cleaned(bytes)).toBe(cleaned(native.detokenize([token as Token])))
    }
  })

  test('the text of tokens that were made from text is that text', () => {
    const known = fc.array(
      fc.constantFrom(...[' the', ' cat', ' dog', ' is', 'th', 'er', 'at', ' a', '.', ',', "'s"]),
      { maxLength: 20 },
    )
    fc.assert(
      fc.property(known, (parts) => {
        const text = parts.join('').trimStart()
        const again = model.detokenize(model.tokenize(text))
        // Word pieces know nothing of blanks: they set one before each word and each mark.
        const same = (of: string) => (tokenizer.name === 'WPM' ? of.replaceAll(' ', '') : of)
        expect(same(again)).toBe(same(text))
      }),
    )
  })

  const texts = fc
    .array(
      fc.oneof(
        fc.constantFrom('<|im_start|>', '<|im_end|>', '<tool>', '<s>', '</s>', '<|im_', '|>'),
        fc.constantFrom(' ', '  ', '\n', ' the', 'cat', "don't", ' .', '世界', '😀', 'é', '<0x41>'),
        fc.constantFrom('ж', 'жж', '▁', '▁the', 'th', 'og', 'in', 'er', "n't", '\u{10fffd}'),
        fc.string({ unit: 'grapheme', maxLength: 6 }).filter((text) => !text.includes('\0')),
      ),
      { maxLength: 30 },
    )
    .map((parts) => parts.join(''))

  test('a text that is cut at its special tokens, and wherever else it can be, has the tokens that llama.cpp makes of the whole', () => {
    const tokenize = tokenizerOf(native, 1)
    fc.assert(
      fc.property(texts, (text) => {
        const whole = text === '' ? [] : native.tokenize(text, true)
        expect([...tokenize(text, Infinity)]).toEqual(whole)
      }),
      { numRuns: 500 },
    )
  })

  test('no text has fewer tokens than its length tells', () => {
    fc.assert(
      fc.property(texts, (text) => {
        const { length } = text === '' ? [] : native.tokenize(text, true)
        expect(model.vocabulary.tellsMoreThan(length, text)).toBe(false)
      }),
      { numRuns: 500 },
    )
  })

  test('a long text has the same tokens from the other process', async () => {
    const text = Array.from({ length: 900 }, () => 'the cat<|im_end|> 世界 <tool>is').join(' ')
    expect(await model.tokenizePrompt(text)).toEqual(model.tokenize(text))
  })

  test('no piece of whole characters has a replacement character', () => {
    const text = 'a naïve 世界 is 😀 of é'
    const got = pieces([], model.tokenize(text))
    for (const piece of got) expect(whole(piece)).toBe(true)
  })

  test('a stop string that begins with a blank ends an answer before that blank', () => {
    const prompt = model.tokenize('the cat')
    const answer = model.tokenize('the cat is dog').slice(prompt.length)
    const detokenizer = model.detokenizer(prompt)
    const matcher = new StopMatcher([' dog'])
    const text = answer.map((token) => matcher.push(detokenizer.push(token))).join('')
    expect(text).toBe(' is')
    expect(matcher.stopped).toBe(true)
  })

  test('an answer of the model goes on where its prompt ended', async () => {
    const prompt = model.tokenize('the cat')
    const answer: number[] = []
    for await (const token of generate(model, { tokens: prompt, maxTokens: 24 })) answer.push(token)
    const text = pieces(prompt, answer).join('')
    expect(text).toBe(
      model.detokenize([...prompt, ...answer]).slice(model.detokenize(prompt).length),
    )
  })
})
