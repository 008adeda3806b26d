/** Is a damaged or hostile GGUF file refused with a sentence, or loaded, and never the end of the process? */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { LlamaModel } from '../src/index.ts'
import { checkMetadata, walkGguf, type Gguf } from '../src/models/gguf.ts'
import { mutants } from './support/mutants.ts'
import { tinyModel, writeGguf, type Contents, type List, type Value } from './support/gguf.ts'

let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-hostile-'))
  vi.stubEnv('KVX_CACHE', join(folder, 'cache'))
})

afterAll(async () => {
  vi.unstubAllEnvs()
  await rm(folder, { recursive: true, force: true })
})

/** Walks over bytes in memory; reading beyond them is the bug that this looks for. */
function walk(bytes: Buffer, limit = Infinity): Gguf {
  let reads = 0
  const gguf = walkGguf(
    {
      bytes: bytes.length,
      read(offset, length) {
        if (++reads > limit) throw new RangeError('more steps than bytes')
        if (!(offset >= 0 && length >= 0 && offset + length <= bytes.length)) {
          throw new RangeError(`read of ${String(length)} bytes at ${String(offset)}`)
        }
        return bytes.subarray(offset, offset + length)
      },
    },
    'm.gguf',
  )
  checkMetadata(gguf, 'm.gguf')
  return gguf
}

const sentence = /^The model file m\.gguf [^\n]+\.$/

test('100,000 mutants are each walked over within the file, and accepted or refused in one sentence', () => {
  // A short vocabulary: more of the changes hit counts, lengths and types.
  const whole = tinyModel()
  const bytes = writeGguf({
    tensors: whole.tensors.slice(1, 4),
    values: whole.values.map((one) =>
      one.type === 'array' ? { ...one, value: one.value.slice(0, 6) } : one,
    ),
  })
  const header = walk(bytes).tensors[0]?.offset ?? 0
  let accepted = 0
  let count = 0
  for (const mutant of mutants(bytes, header, 100_000, 1)) {
    count++
    try {
      // A walk takes no more steps than the file has bytes, whatever it says.
      const { tensors } = walk(mutant, bytes.length)
      for (const { offset, bytes: size } of tensors) {
        if (offset + size > mutant.length) throw new RangeError('a tensor ends beyond the file')
      }
      accepted++
    } catch (cause) {
      const { code, message } = cause as { code?: string; message: string }
      if (code !== 'ERR_KVX_MODEL' || !sentence.test(message)) throw cause
    }
  }
  expect(count).toBe(100_000)
  expect(accepted).toBeGreaterThan(5_000)
  expect(accepted).toBeLessThan(95_000)
})

const with_ = (...values: (Value | List)[]): Contents => tinyModel({ values })
const without = (...keys: string[]): Contents => {
  const { tensors, values } = tinyModel()
  return { tensors, values: values.filter(({ key }) => !keys.includes(key)) }
}
const tokens = (() => {
  const found = tinyModel().values.find(({ key }) => key === 'tokenizer.ggml.tokens')
  return (found?.value ?? []) as string[]
})()
const vocabulary = (value: readonly string[]): Contents =>
  with_({ key: 'tokenizer.ggml.tokens', type: 'array', of: 'string', value })

/** The bytes of a model in which `from` is replaced where it is first. */
function patched(from: Buffer | string, to: Buffer, skip = 0): Buffer {
  const bytes = writeGguf(tinyModel())
  to.copy(bytes, bytes.indexOf(from) + Buffer.from(from).length + skip)
  return bytes
}
const u64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes
}

test.each<[string, Buffer, RegExp]>([
  ['no vocabulary', writeGguf(without('tokenizer.ggml.tokens')), /has no vocabulary/],
  ['no tokenizer', writeGguf(without('tokenizer.ggml.model')), /has no vocabulary/],
  ['an empty vocabulary', writeGguf(vocabulary([])), /not a list of strings/],
  [
    'a token that is there twice',
    writeGguf(vocabulary([...tokens.slice(0, -1), '</s>'])),
    /was there before/,
  ],
  [
    'a token that is there twice up to a zero',
    writeGguf(vocabulary([...tokens.slice(0, -1), '</s>\0x'])),
    /was there before/,
  ],
  [
    'fewer scores than tokens',
    writeGguf(with_({ key: 'tokenizer.ggml.scores', type: 'array', of: 'f32', value: [1] })),
    /scores does not have one number for each of/,
  ],
  [
    'token types of another type',
    writeGguf(
      with_({
        key: 'tokenizer.ggml.token_type',
        type: 'array',
        of: 'u8',
        value: tokens.map(() => 1),
      }),
    ),
    /token_type does not have one number/,
  ],
  [
    'no architecture',
    writeGguf(without('general.architecture')),
    /general\.architecture is not a string/,
  ],
  [
    'more layers than llama.cpp has room for',
    writeGguf(with_({ key: 'llama.block_count', type: 'u32', value: 513 })),
    /513 layers/,
  ],
  [
    'a key twice',
    writeGguf({
      ...tinyModel(),
      values: [...tinyModel().values, ...tinyModel().values.slice(0, 1)],
    }),
    /is there twice/,
  ],
  [
    'a tensor twice',
    writeGguf({
      ...tinyModel(),
      tensors: [...tinyModel().tensors, ...tinyModel().tensors.slice(0, 1)],
    }),
    /is there twice/,
  ],
  [
    'a key that reaches what all objects share',
    writeGguf(with_({ key: 'a.__proto__.x', type: 'u32', value: 1 })),
    /the part "__proto__"/,
  ],
  [
    'an alignment of 0',
    writeGguf(with_({ key: 'general.alignment', type: 'u32', value: 0 })),
    /not a usable power of two/,
  ],
  [
    'an alignment beyond the file',
    writeGguf(with_({ key: 'general.alignment', type: 'u32', value: 2 ** 31 })),
    /not a usable power of two/,
  ],
  ['a string beyond the file', patched('general.name', u64(2n ** 62n), 4), /cut off/],
  ['a string of 2⁶⁴ − 1 bytes', patched('general.name', u64(2n ** 64n - 1n), 4), /cut off/],
  [
    'an array with more elements than bytes',
    patched('tokenizer.ggml.scores', u64(2n ** 63n), 8),
    /cut off/,
  ],
  ['an array of arrays', patched('tokenizer.ggml.scores', Buffer.of(9), 4), /array of the type 9/],
  ['a type of value that does not exist', patched('general.name', Buffer.of(13), 0), /type 13/],
  ['five dimensions', patched('output_norm.weight', Buffer.of(5), 0), /5 dimensions/],
  [
    'a dimension of 2⁶³',
    patched('output_norm.weight', u64(2n ** 63n), 4),
    /cut off inside its weights/,
  ],
  ['a dimension of 0', patched('output_norm.weight', u64(0n), 4), /dimensions 0/],
  [
    'an unknown type of tensor',
    patched('output_norm.weight', Buffer.of(99), 12),
    /unknown type 99/,
  ],
  [
    'a tensor in another place',
    patched('output_norm.weight', u64(0n), 16),
    /begins at 0 instead of/,
  ],
])('%s is refused by the walk', (_, bytes, message) => {
  expect(() => walk(bytes)).toThrow(
    expect.objectContaining({
      code: 'ERR_KVX_MODEL',
      message: expect.stringMatching(message) as string,
    }),
  )
  expect(() => walk(bytes)).toThrow(sentence)
})

async function load(name: string, bytes: Buffer): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, bytes)
  try {
    const model = await LlamaModel.load({ path, contextLength: 64 })
    await model.dispose()
    return 'loaded'
  } catch (cause) {
    expect(cause).toMatchObject({ code: 'ERR_KVX_MODEL' })
    return (cause as Error).message
  }
}

test.each([
  [
    'a width of 0',
    with_({ key: 'llama.feed_forward_length', type: 'u32', value: 0 }),
    'ends llama.cpp',
  ],
  [
    'a vocabulary without some bytes',
    vocabulary(tokens.map((one) => one.replace(/^<0x9/, '<0z9'))),
    'ends llama.cpp',
  ],
  [
    'a context of 0 tokens',
    with_({ key: 'llama.context_length', type: 'u32', value: 0 }),
    'trained on 0 tokens',
  ],
])(
  '%s, which is well-formed, ends another process and not this one',
  async (_, contents, message) => {
    walk(writeGguf(contents))
    expect(await load('well-formed.gguf', writeGguf(contents))).toContain(message)
  },
)

test('mutants that pass the walk are loaded or refused, and this process goes on', async () => {
  const bytes = writeGguf(tinyModel())
  const header = walk(bytes).tensors[0]?.offset ?? 0
  const outcomes: string[] = []
  for (const mutant of mutants(bytes, header, 1_000, 2)) {
    try {
      walk(mutant)
    } catch {
      continue
    }
    outcomes.push(await load(`${String(outcomes.length)}.gguf`, mutant))
    if (outcomes.length === 40) break
  }
  expect(outcomes).toHaveLength(40)
  expect(outcomes).toContain('loaded')
  expect(outcomes.some((one) => one !== 'loaded')).toBe(true)
})
