/** Is a text that is tokenized piece by piece the same as the whole one, for any vocabulary of SentencePiece? */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { getLlama, LlamaLogLevel, type Llama, type LlamaModel as Weights } from 'node-llama-cpp'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { tokenizerOf, type Words } from '../src/text/native.ts'
import { Seams } from '../src/text/seams.ts'
import { generator, writeGguf } from './support/gguf.ts'
import { modelWith, tokenizers, type Tokenizer } from './support/vocabularies.ts'

const [spm] = tokenizers as [Tokenizer]
/** Some of them will have a token of their own, all may be in longer ones. */
const characters = ['a', 'b', 'c', '▁', 'é', 'ж', '世', '🙂']

let folder: string
let llama: Llama

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-seams-'))
  llama = await getLlama({
    ...{ gpu: false, build: 'never', skipDownload: true, progressLogs: false },
    logLevel: LlamaLogLevel.error,
  })
})

afterAll(async () => {
  await llama.dispose()
  await rm(folder, { recursive: true })
})

async function vocabulary(name: string, tokenizer: Tokenizer): Promise<Weights> {
  const modelPath = join(folder, `${name}.gguf`)
  await writeFile(modelPath, writeGguf(modelWith(tokenizer)))
  return llama.loadModel({ modelPath, vocabOnly: true, gpuLayers: 0 })
}

/** Bytes and special tokens of `spm`, and 40 random texts of `characters`, the better the earlier. */
function randomTokenizer(seed: number): Tokenizer {
  const random = generator(seed)
  const below = (limit: number) => Math.floor(random() * limit)
  const texts = new Set(
    Array.from({ length: 40 }, () =>
      Array.from({ length: 1 + below(4) }, () => characters[below(characters.length)]).join(''),
    ),
  )
  const kept = spm.entries.filter(([, kind]) => kind !== 'normal')
  const entries = [...kept, ...[...texts].map((text) => [text, 'normal'] as const)]
  return { ...spm, entries }
}

test('a text cut into pieces has the tokens that llama.cpp makes of the whole, for 20 random vocabularies', async () => {
  const text = fc.string({ unit: fc.constantFrom(...characters, ' ', '\n'), maxLength: 40 })
  for (let seed = 1; seed <= 20; seed++) {
    const words = await vocabulary(String(seed), randomTokenizer(seed))
    const tokenize = tokenizerOf(words, 1)
    fc.assert(
      fc.property(text, (text) => {
        expect([...tokenize(text, Infinity)]).toEqual(words.tokenize(text, true))
      }),
      { numRuns: 300, seed },
    )
    await words.dispose()
  }
})

test('llama.cpp is given characters that no token has in pieces, and none once there are enough tokens', async () => {
  const native = await vocabulary('spm', spm)
  const given: number[] = []
  const words: Words = {
    vocabularyType: native.vocabularyType,
    fileInfo: native.fileInfo,
    getTokenAttributes: (token) => native.getTokenAttributes(token),
    tokenize(text, specialTokens) {
      given.push(text.length)
      return native.tokenize(text, specialTokens)
    },
  }
  const tokenize = tokenizerOf(words)
  for (const text of ['ж', '\n', '🙂', 'ж\n'].map((one) => one.repeat(20_000))) {
    given.length = 0
    tokenize(text, Infinity)
    expect(Math.max(...given)).toBeLessThan(520)
    given.length = 0
    tokenize(text, 1000)
    expect(given.reduce((sum, length) => sum + length)).toBeLessThan(2000)
  }
})

test('a text is cut where no token goes on, and only there', () => {
  const seams = new Seams(['ab', 'bcd', '▁a'])
  expect([...seams.pieces('abab abcdd', 1)]).toEqual(['ab', 'ab', ' abcd', 'd'])
  expect([...seams.pieces('abab abcdd', 3)]).toEqual(['abab', ' abcd', 'd'])
  expect([...seams.pieces('', 1)]).toEqual([])
})

test('the pieces of any text are the text', () => {
  const texts = fc.array(fc.string({ unit: 'grapheme', maxLength: 5 }), { maxLength: 20 })
  fc.assert(
    fc.property(
      texts,
      fc.string({ unit: 'grapheme', maxLength: 60 }),
      fc.nat(9),
      (all, text, n) => {
        expect([...new Seams(all).pieces(text, n)].join('')).toBe(text)
        expect(all.join('')).not.toContain(new Seams(all).stranger)
      },
    ),
  )
})
