/** Which options and values of a GGUF file change the numbers in a cache? Those are part of what both sides compare. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { LlamaModel, prefill, type LoadOptions } from '../src/index.ts'
import { tinyModel, writeGguf, type ModelShape, type Value } from './support/gguf.ts'

let folder: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kvx-bits-'))
  vi.stubEnv('KVX_CACHE', join(folder, 'cache'))
})

afterAll(async () => {
  vi.unstubAllEnvs()
  await rm(folder, { recursive: true, force: true })
})

const tokens = [1, ...Array.from({ length: 99 }, (_, i) => 260 + ((i * 7) % 90))]

interface Computed {
  /** K and V of all layers, token by token. */
  readonly cache: Buffer
  readonly identity: string
  readonly settings: string
}

/** What one prompt leaves in the pages of a model that was loaded so. */
async function compute(shape: ModelShape, options: Partial<LoadOptions> = {}): Promise<Computed> {
  const path = join(folder, 'model.gguf')
  await writeFile(path, writeGguf(tinyModel(shape)))
  const model = await LlamaModel.load({ contextLength: 128, pages: 60, ...options, path })
  try {
    const { shape, place } = model.cache
    const { pageTokens = 1 } = place.components.kv ?? {}
    const pages = Int32Array.from({ length: Math.ceil(tokens.length / pageTokens) }, (_, i) => i)
    await prefill(model, { tokens, pages: { kv: pages }, onChunk: () => undefined })
    const rows = place.tensors.map((tensor) => {
      const bytes = Buffer.from(
        model.memory.view?.(tensor.base, pages.length * tensor.pageBytes) ?? Buffer.alloc(0),
      )
      return tensor.order === 'NHD' ? bytes : tokenMajor(bytes, tensor.pageBytes, pageTokens)
    })
    const cache = Buffer.concat(
      rows.map((row) =>
        row.subarray(0, (row.length / (pages.length * pageTokens)) * tokens.length),
      ),
    )
    return { cache, identity: shape.model, settings: JSON.stringify(shape.settings) }
  } finally {
    await model.dispose()
  }
}

/** Pages of [dim][token], two bytes an element, as [token][dim]. */
function tokenMajor(pages: Buffer, pageBytes: number, pageTokens: number): Buffer {
  const dims = pageBytes / pageTokens / 2
  const rows = Buffer.alloc(pages.length)
  for (let i = 0; i < pages.length / 2; i++) {
    const page = Math.floor((2 * i) / pageBytes)
    const within = i - (page * pageBytes) / 2
    const [dim, token] = [Math.floor(within / pageTokens), within % pageTokens]
    pages.copy(rows, 2 * ((page * pageTokens + token) * dims + dim), 2 * i, 2 * i + 2)
  }
  return rows
}

const longRope: ModelShape = { architecture: 'phi3', originalContext: 256 }
const yarn: ModelShape = {
  values: [
    { key: 'llama.rope.scaling.type', type: 'string', value: 'yarn' },
    { key: 'llama.rope.scaling.factor', type: 'f32', value: 4 },
    { key: 'llama.rope.scaling.original_context_length', type: 'u32', value: 256 },
  ],
}

test.each<[string, ModelShape, Partial<LoadOptions>, boolean]>([
  ['the context length', {}, { contextLength: 900 }, false],
  ['the context length of a YaRN model', yarn, { contextLength: 900 }, false],
  [
    'the context length, below the limit of the RoPE factors',
    longRope,
    { contextLength: 255 },
    false,
  ],
  [
    'the context length, above the limit of the RoPE factors',
    longRope,
    { contextLength: 256 },
    true,
  ],
  ['a context length far above that limit', longRope, { contextLength: 1024 }, true],
  ['the number of sequences', {}, { sequences: 3 }, false],
  [
    'the number of sequences, near the limit of the RoPE factors',
    longRope,
    { contextLength: 255, sequences: 3 },
    false,
  ],
  ['the size of chunks', {}, { chunkTokens: 17 }, false],
  ['chunks of two tokens', {}, { chunkTokens: 2 }, false],
  ['the page size', {}, { pageTokens: 5 }, false],
  ['the number of pages', {}, { pages: 61 }, false],
  ['the number of threads', {}, { threads: 2 }, false],
])(
  'of the options of a worker, %s changes the cache just when it changes the settings that are compared',
  async (_, shape, options, changes) => {
    const [before, after] = [await compute(shape), await compute(shape, options)]
    expect(after.identity).toBe(before.identity)
    expect(after.cache.equals(before.cache)).toBe(!changes)
    expect(after.settings === before.settings).toBe(!changes)
  },
)

test.each<[string, readonly Value[], boolean]>([
  ['general.name', [{ key: 'general.name', type: 'string', value: 'another' }], false],
  ['rope.freq_base', [{ key: 'llama.rope.freq_base', type: 'f32', value: 5e5 }], true],
  [
    'rope.scaling.type and factor (linear)',
    [
      { key: 'llama.rope.scaling.type', type: 'string', value: 'linear' },
      { key: 'llama.rope.scaling.factor', type: 'f32', value: 4 },
    ],
    true,
  ],
  ['rope.scaling (YaRN)', yarn.values as Value[], true],
  ['rope.scale_linear', [{ key: 'llama.rope.scale_linear', type: 'f32', value: 2 }], true],
  [
    'attention.layer_norm_rms_epsilon',
    [{ key: 'llama.attention.layer_norm_rms_epsilon', type: 'f32', value: 0.1 }],
    true,
  ],
  // The architecture llama does not read it.
  ['attention.scale', [{ key: 'llama.attention.scale', type: 'f32', value: 0.01 }], false],
  ['context_length', [{ key: 'llama.context_length', type: 'u32', value: 512 }], false],
  [
    'the ids of special tokens',
    [{ key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: 3 }],
    false,
  ],
])('of the values of a file, %s is part of the identity', async (_, values, changes) => {
  const [before, after] = [await compute({}), await compute({ values })]
  expect(after.cache.equals(before.cache)).toBe(!changes)
  expect(after.identity).not.toBe(before.identity)
})
