/** Writes GGUF files: any list of values and tensors, and whole small models with random weights. */

export interface Value {
  readonly key: string
  /** Number of the type, or the name that GGUF gives it. */
  readonly type: keyof typeof typeIds
  readonly value: number | string | boolean
}

export interface List {
  readonly key: string
  readonly type: 'array'
  readonly of: keyof typeof typeIds
  readonly value: readonly (number | string)[]
}

export interface TensorOf {
  readonly name: string
  /** Innermost first, as in the file. All tensors are f32. */
  readonly dims: readonly number[]
  readonly data: Float32Array
}

export interface Contents {
  readonly values: readonly (Value | List)[]
  readonly tensors: readonly TensorOf[]
}

const typeIds = { u8: 0, u16: 2, i32: 5, u32: 4, f32: 6, bool: 7, string: 8 } as const
const alignment = 32

export function writeGguf({ values, tensors }: Contents): Buffer {
  const parts: Buffer[] = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(values.length)]
  for (const entry of values) {
    parts.push(string(entry.key))
    if (entry.type === 'array') {
      parts.push(u32(9), u32(typeIds[entry.of]), u64(entry.value.length))
      for (const one of entry.value) parts.push(scalar(entry.of, one))
    } else parts.push(u32(typeIds[entry.type]), scalar(entry.type, entry.value))
  }
  let offset = 0
  for (const { name, dims, data } of tensors) {
    parts.push(string(name), u32(dims.length), ...dims.map(u64), u32(0), u64(offset))
    offset += padded(data.byteLength)
  }
  const header = Buffer.concat(parts)
  const bytes = Buffer.alloc(tensors.length === 0 ? header.length : padded(header.length) + offset)
  header.copy(bytes)
  let at = padded(header.length)
  for (const { data } of tensors) {
    Buffer.from(data.buffer, data.byteOffset, data.byteLength).copy(bytes, at)
    at += padded(data.byteLength)
  }
  return bytes
}

/** As llama-gguf-split would: the values in the first part. `firstEmpty` leaves the tensors to the others. */
export function splitGguf(contents: Contents, count: number, firstEmpty = false): Buffer[] {
  const holders = firstEmpty ? count - 1 : count
  const each = Math.ceil(contents.tensors.length / holders)
  return Array.from({ length: count }, (_, i) => {
    const from = (firstEmpty ? i - 1 : i) * each
    return writeGguf({
      values: [
        ...(i === 0 ? contents.values : []),
        { key: 'split.no', type: 'u16', value: i },
        { key: 'split.count', type: 'u16', value: count },
        { key: 'split.tensors.count', type: 'i32', value: contents.tensors.length },
      ],
      tensors: from < 0 ? [] : contents.tensors.slice(from, from + each),
    })
  })
}

export interface ModelShape {
  readonly architecture?: 'llama' | 'phi3'
  readonly seed?: number
  /** What it was trained for. */
  readonly context?: number
  /** Further values, also in place of those that a model has by itself. */
  readonly values?: readonly (Value | List)[]
  /** phi3: tokens from which on the long RoPE factors count. */
  readonly originalContext?: number
}

/** A whole model, of 96 KiB or so, that llama.cpp loads. Its answers are noise. */
export function tinyModel(shape: ModelShape = {}): Contents {
  const { architecture = 'llama', seed = 1, context = 1024, originalContext } = shape
  const heads = 2
  const kvHeads = 1
  const headDim = 16
  const width = heads * headDim
  const inner = 64
  const layers = 2
  const random = generator(seed)

  const own: (Value | List)[] = [
    { key: 'general.architecture', type: 'string', value: architecture },
    { key: 'general.name', type: 'string', value: 'tiny' },
    { key: `${architecture}.context_length`, type: 'u32', value: context },
    { key: `${architecture}.embedding_length`, type: 'u32', value: width },
    { key: `${architecture}.block_count`, type: 'u32', value: layers },
    { key: `${architecture}.feed_forward_length`, type: 'u32', value: inner },
    { key: `${architecture}.attention.head_count`, type: 'u32', value: heads },
    { key: `${architecture}.attention.head_count_kv`, type: 'u32', value: kvHeads },
    { key: `${architecture}.attention.layer_norm_rms_epsilon`, type: 'f32', value: 1e-5 },
    { key: `${architecture}.rope.dimension_count`, type: 'u32', value: headDim },
    { key: `${architecture}.rope.freq_base`, type: 'f32', value: 10_000 },
    ...tokenizerValues(),
  ]
  if (originalContext !== undefined) {
    own.push({
      key: `${architecture}.rope.scaling.original_context_length`,
      type: 'u32',
      value: originalContext,
    })
  }
  const replaced = new Set(shape.values?.map(({ key }) => key))
  const values = [...own.filter(({ key }) => !replaced.has(key)), ...(shape.values ?? [])]

  const tensors: TensorOf[] = []
  const add = (name: string, dims: readonly number[], value: () => number) => {
    const data = Float32Array.from({ length: dims.reduce((a, b) => a * b) }, value)
    tensors.push({ name, dims, data })
  }
  const matrix = (name: string, columns: number, rows: number) => {
    add(name, [columns, rows], () => (random() * 2 - 1) * (1.7 / Math.sqrt(columns)))
  }
  const norm = (name: string) => {
    add(name, [width], () => 0.9 + 0.2 * random())
  }
  matrix('token_embd.weight', width, vocabulary.length)
  norm('output_norm.weight')
  if (originalContext !== undefined) {
    add('rope_factors_long.weight', [headDim / 2], () => 2 + 10 * random())
    add('rope_factors_short.weight', [headDim / 2], () => 1)
  }
  for (let layer = 0; layer < layers; layer++) {
    const name = (part: string) => `blk.${String(layer)}.${part}.weight`
    norm(name('attn_norm'))
    if (architecture === 'phi3') matrix(name('attn_qkv'), width, (heads + 2 * kvHeads) * headDim)
    else {
      matrix(name('attn_q'), width, width)
      matrix(name('attn_k'), width, kvHeads * headDim)
      matrix(name('attn_v'), width, kvHeads * headDim)
    }
    matrix(name('attn_output'), width, width)
    norm(name('ffn_norm'))
    if (architecture === 'phi3') matrix(name('ffn_up'), width, 2 * inner)
    else {
      matrix(name('ffn_gate'), width, inner)
      matrix(name('ffn_up'), width, inner)
    }
    matrix(name('ffn_down'), inner, width)
  }
  return { values, tensors }
}

const vocabulary = [...vocabularyOf()]

/** Tokens of the vocabulary of `tokenizerValues`. */
export const tinyVocabularySize = vocabulary.length

/** What the metadata of a small model says of its vocabulary. */
export function tokenizerValues(): (Value | List)[] {
  return [
    { key: 'tokenizer.ggml.model', type: 'string', value: 'llama' },
    list(
      'tokenizer.ggml.tokens',
      'string',
      vocabulary.map(([text]) => text),
    ),
    list(
      'tokenizer.ggml.token_type',
      'i32',
      vocabulary.map(([, kind]) => kind),
    ),
    list(
      'tokenizer.ggml.scores',
      'f32',
      vocabulary.map((_, i) => -i),
    ),
    { key: 'tokenizer.ggml.bos_token_id', type: 'u32', value: 1 },
    { key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: 2 },
  ]
}

/** SentencePiece: three special tokens, all bytes, and some text. */
function* vocabularyOf(): Generator<[text: string, kind: number]> {
  yield ['<unk>', 2]
  yield ['<s>', 3]
  yield ['</s>', 3]
  for (let byte = 0; byte < 256; byte++) {
    yield [`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`, 6]
  }
  for (let code = 33; code < 127; code++) yield [String.fromCharCode(code), 1]
  for (const word of ['▁', '▁the', '▁a', '▁cat', '▁dog', 'th', 'he']) yield [word, 1]
}

/** Numbers from 0 to 1, the same for the same seed. */
export function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

function list(key: string, of: List['of'], value: List['value']): List {
  return { key, type: 'array', of, value }
}

function padded(bytes: number): number {
  return Math.ceil(bytes / alignment) * alignment
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function string(text: string): Buffer {
  const bytes = Buffer.from(text)
  return Buffer.concat([u64(bytes.length), bytes])
}

function scalar(type: Value['type'], value: number | string | boolean): Buffer {
  const bytes = Buffer.alloc(4)
  switch (type) {
    case 'string':
      return string(String(value))
    case 'u8':
    case 'bool':
      return Buffer.of(Number(value))
    case 'u16':
      bytes.writeUInt16LE(Number(value))
      return bytes.subarray(0, 2)
    case 'u32':
      return u32(Number(value))
    case 'i32':
      bytes.writeInt32LE(Number(value))
      return bytes
    case 'f32':
      bytes.writeFloatLE(Number(value))
      return bytes
  }
}
