/**
 * A bounded walk over a GGUF file: what it holds, and where. The parsers behind it (node-llama-cpp's and
 * llama.cpp's own) trust counts, lengths and types, so they see only files that passed here.
 */
import { KvxError } from '@kvx/contract'

/** Bytes that can be read in any order. */
export interface Source {
  readonly bytes: number
  /** Exactly `length` bytes, which lie within the source; valid until the next call. */
  read(offset: number, length: number): Buffer
}

/** One entry of the metadata. `start` to `end` are its type and value in the file. */
export interface GgufValue {
  readonly start: number
  readonly end: number
  readonly type: number
  /** Type of the elements, and how many there are; of an array. `twice` is looked for in tokens only. */
  readonly elements?: { readonly type: number; readonly count: number; readonly twice?: number }
  /** Of a number, a boolean, or a short string. */
  readonly value?: number | bigint | boolean | string
}

export interface GgufTensor {
  readonly name: string
  readonly type: number
  readonly dims: readonly number[]
  /** In the file. */
  readonly offset: number
  readonly bytes: number
}

export interface Gguf {
  readonly values: ReadonlyMap<string, GgufValue>
  readonly tensors: readonly GgufTensor[]
}

const supportedVersions = [2, 3]

// Far above what models have. Both parsers take time that grows with the square of some of these.
const most = { values: 8_192, tensors: 32_768, elements: 2 ** 22, keyBytes: 256, nameBytes: 63 }
const mostMetadataBytes = 2 ** 28
const mostAlignment = 2 ** 20
const shortString = 1_024
/** llama.cpp ends the process above it. */
const mostLayers = 512

const tokensKey = 'tokenizer.ggml.tokens'

const string = 8
const array = 9
const u32 = 4
const i32 = 5
const f32 = 6
/** Bytes of each type of value but strings and arrays. */
const fixedBytes = new Map([
  ...[0, 1, 7].map((type) => [type, 1] as const),
  ...[2, 3].map((type) => [type, 2] as const),
  ...[u32, i32, f32].map((type) => [type, 4] as const),
  ...[10, 11, 12].map((type) => [type, 8] as const),
])
// The least that one entry of the metadata, and one of the list of tensors, takes.
const leastValueBytes = 13
const leastTensorBytes = 32

/** Elements of one block, and its bytes, of each type of tensor that llama.cpp knows. */
const tensorTypes = new Map<number, readonly [elements: number, bytes: number]>([
  [0, [1, 4]], // f32
  [1, [1, 2]], // f16
  [2, [32, 18]], // q4_0
  [3, [32, 20]], // q4_1
  [6, [32, 22]], // q5_0
  [7, [32, 24]], // q5_1
  [8, [32, 34]], // q8_0
  [9, [32, 36]], // q8_1
  [10, [256, 84]], // q2_K
  [11, [256, 110]], // q3_K
  [12, [256, 144]], // q4_K
  [13, [256, 176]], // q5_K
  [14, [256, 210]], // q6_K
  [15, [256, 292]], // q8_K
  [16, [256, 66]], // iq2_xxs
  [17, [256, 74]], // iq2_xs
  [18, [256, 98]], // iq3_xxs
  [19, [256, 50]], // iq1_s
  [20, [32, 18]], // iq4_nl
  [21, [256, 110]], // iq3_s
  [22, [256, 82]], // iq2_s
  [23, [256, 136]], // iq4_xs
  [24, [1, 1]], // i8
  [25, [1, 2]], // i16
  [26, [1, 4]], // i32
  [27, [1, 8]], // i64
  [28, [1, 8]], // f64
  [29, [256, 56]], // iq1_m
  [30, [1, 2]], // bf16
  [34, [256, 54]], // tq1_0
  [35, [256, 66]], // tq2_0
  [39, [32, 17]], // mxfp4
  [40, [64, 36]], // nvfp4
  [41, [128, 18]], // q1_0
  [42, [64, 18]], // q2_0
])

/**
 * What one file holds. Every count, length, offset and type is checked before it is used, and the work is
 * bounded, whatever the file says.
 *
 * @param path for messages
 * @throws KvxError `ERR_KVX_MODEL`
 */
export function walkGguf(source: Source, path: string): Gguf {
  const walk = new Walk(source, path)
  walk.need(Math.min(4, source.bytes), 'its header')
  if (source.bytes < 4 || walk.take(4).toString('latin1') !== 'GGUF') {
    throw refused(path, 'is not a GGUF file: it does not begin with "GGUF".')
  }
  walk.need(20, 'its header')
  const version = walk.u32()
  if (!supportedVersions.includes(version)) {
    throw refused(
      path,
      `is a GGUF file of version ${String(version)}; versions ${supportedVersions.join(' and ')} can be read.`,
    )
  }
  const tensorCount = walk.u64()
  const valueCount = walk.u64()
  if (tensorCount * leastTensorBytes + valueCount * leastValueBytes > source.bytes) {
    throw refused(path, 'is damaged or cut off: its header promises more than it holds.')
  }
  walk.bound(valueCount, most.values, 'entries of metadata')
  walk.bound(tensorCount, most.tensors, 'tensors')

  const values = new Map<string, GgufValue>()
  for (let i = 0; i < valueCount; i++) {
    const key = keyOf(walk)
    if (values.has(key)) throw damaged(path, `the key ${key} is there twice`)
    values.set(key, valueOf(walk, key))
  }
  const listed = Array.from({ length: tensorCount }, () => tensorOf(walk))
  const start = ceil(walk.offset, alignmentOf(values, path))
  return { values, tensors: placed(listed, start, alignmentOf(values, path), source.bytes, path) }
}

export function refused(path: string, what: string, cause?: unknown): KvxError {
  return new KvxError('ERR_KVX_MODEL', `The model file ${path} ${what}`, { cause, phase: 'open' })
}

export function damaged(path: string, why: string): KvxError {
  return refused(path, `has damaged metadata: ${why}.`)
}

/** A position in the file that never leaves it. */
class Walk {
  readonly #source: Source
  readonly #path: string
  offset = 0
  /** Elements of arrays of strings that have been walked over. */
  #elements = 0

  constructor(source: Source, path: string) {
    this.#source = source
    this.#path = path
  }

  need(bytes: number, where = 'its metadata'): void {
    if (bytes > this.#source.bytes - this.offset) {
      throw refused(this.#path, `is cut off inside ${where}.`)
    }
  }

  take(bytes: number): Buffer {
    this.need(bytes)
    const taken = this.#source.read(this.offset, bytes)
    this.offset += bytes
    return taken
  }

  skip(bytes: number): void {
    this.need(bytes)
    this.offset += bytes
    if (this.offset > mostMetadataBytes) {
      throw this.damaged(`it has more than ${String(mostMetadataBytes / 2 ** 20)} MiB`)
    }
  }

  u32(): number {
    return this.take(4).readUInt32LE()
  }

  /** One beyond what a number can hold is as wrong as any that is too large. */
  u64(): number {
    return Number(this.take(8).readBigUInt64LE())
  }

  text(length: number): string {
    return this.take(length).toString('utf8')
  }

  bound(count: number, limit: number, what: string): void {
    if (count > limit) {
      throw refused(
        this.#path,
        `has ${String(count)} ${what}; more than ${String(limit)} are not taken.`,
      )
    }
  }

  countElements(count: number): void {
    this.#elements += count
    this.bound(this.#elements, most.elements, 'strings in its metadata')
  }

  damaged(why: string): KvxError {
    return damaged(this.#path, why)
  }
}

function keyOf(walk: Walk): string {
  const length = walk.u64()
  if (length < 1 || length > most.keyBytes) {
    throw walk.damaged(`a key has ${String(length)} bytes instead of 1 to ${String(most.keyBytes)}`)
  }
  const key = walk.text(length)
  if (!/^[\x21-\x7e]+$/.test(key)) throw walk.damaged('a key is not printable ASCII')
  // The parser makes nested objects of keys, and must not reach what all objects share.
  const part = key.split('.').find((one) => one in {})
  if (part !== undefined) throw walk.damaged(`a key has the part "${part}"`)
  return key
}

function valueOf(walk: Walk, key: string): GgufValue {
  const start = walk.offset
  const type = walk.u32()
  const end = (rest: Omit<GgufValue, 'start' | 'end' | 'type'>): GgufValue => ({
    ...{ start, end: walk.offset, type },
    ...rest,
  })
  const size = fixedBytes.get(type)
  if (size !== undefined) {
    const value = scalarOf(type, walk.take(size))
    return end({ value })
  }
  if (type === string) {
    const length = walk.u64()
    if (length > shortString) {
      walk.skip(length)
      return end({})
    }
    const value = walk.text(length)
    return end({ value })
  }
  if (type !== array)
    throw walk.damaged(`${key} has the type ${String(type)}, which does not exist`)
  const element = walk.u32()
  const count = walk.u64()
  const each = fixedBytes.get(element)
  if (each !== undefined) walk.skip(count * each)
  else if (element === string) {
    walk.need(8 * count)
    walk.countElements(count)
    const twice = stringsOf(walk, count, key === tokensKey)
    if (twice !== undefined) return end({ elements: { type: element, count, twice } })
  } else {
    throw walk.damaged(`${key} is an array of the type ${String(element)}, which cannot be read`)
  }
  return end({ elements: { type: element, count } })
}

/**
 * Walks over strings.
 *
 * @returns the position of the first that was there before, if they are to be `distinct`; empty ones may repeat
 */
function stringsOf(walk: Walk, count: number, distinct: boolean): number | undefined {
  const seen = new Set<string>()
  let twice: number | undefined
  for (let i = 0; i < count; i++) {
    const length = walk.u64()
    if (!distinct || length > shortString) {
      walk.skip(length)
      continue
    }
    // llama.cpp reads them up to the first zero.
    const [text = ''] = walk.take(length).toString('latin1').split('\0', 1)
    if (text !== '' && seen.has(text)) twice ??= i
    seen.add(text)
  }
  return twice
}

function scalarOf(type: number, bytes: Buffer): NonNullable<GgufValue['value']> {
  switch (type) {
    case 0:
      return bytes.readUInt8()
    case 1:
      return bytes.readInt8()
    case 2:
      return bytes.readUInt16LE()
    case 3:
      return bytes.readInt16LE()
    case u32:
      return bytes.readUInt32LE()
    case i32:
      return bytes.readInt32LE()
    case f32:
      return bytes.readFloatLE()
    case 7:
      return bytes.readUInt8() !== 0
    case 10:
      return bytes.readBigUInt64LE()
    case 11:
      return bytes.readBigInt64LE()
    default:
      return bytes.readDoubleLE()
  }
}

interface Listed {
  readonly name: string
  readonly type: number
  readonly dims: readonly number[]
  /** Within the data. */
  readonly offset: number
  readonly bytes: number
}

function tensorOf(walk: Walk): Listed {
  const length = walk.u64()
  if (length < 1 || length > most.nameBytes) {
    throw walk.damaged(
      `a tensor has a name of ${String(length)} bytes instead of 1 to ${String(most.nameBytes)}`,
    )
  }
  const name = walk.text(length)
  const count = walk.u32()
  if (count < 1 || count > 4) {
    throw walk.damaged(`the tensor ${name} has ${String(count)} dimensions instead of 1 to 4`)
  }
  const dims = Array.from({ length: count }, () => walk.u64())
  const type = walk.u32()
  const block = tensorTypes.get(type)
  if (!block) throw walk.damaged(`the tensor ${name} has the unknown type ${String(type)}`)
  const elements = dims.reduce((product, dim) => product * dim)
  const [first = 0] = dims
  if (elements < 1 || first % block[0] !== 0) {
    throw walk.damaged(`the tensor ${name} has the dimensions ${dims.join(' × ')}`)
  }
  const bytes = (elements / block[0]) * block[1]
  return { name, type, dims, offset: walk.u64(), bytes }
}

function alignmentOf(values: Gguf['values'], path: string): number {
  const entry = values.get('general.alignment')
  if (!entry) return 32
  const { type, value } = entry
  const isPower = typeof value === 'number' && value >= 1 && (value & (value - 1)) === 0
  if (type !== u32 || !isPower || value > mostAlignment) {
    throw damaged(path, `general.alignment is ${String(value)}, which is not a usable power of two`)
  }
  return value
}

/** Tensors lie one behind the other, each at the alignment, as llama.cpp requires. */
function placed(
  tensors: readonly Listed[],
  start: number,
  alignment: number,
  fileBytes: number,
  path: string,
): GgufTensor[] {
  const names = new Set<string>()
  let expected = 0
  return tensors.map((tensor) => {
    const { name, offset, bytes } = tensor
    if (names.has(name)) throw damaged(path, `the tensor ${name} is there twice`)
    names.add(name)
    if (offset !== expected) {
      throw damaged(
        path,
        `the tensor ${name} begins at ${String(offset)} instead of ${String(expected)}`,
      )
    }
    if (start + offset + bytes > fileBytes) {
      throw refused(path, `is cut off inside its weights, after ${String(fileBytes)} bytes.`)
    }
    expected = ceil(offset + bytes, alignment)
    return { ...tensor, offset: start + offset }
  })
}

function ceil(value: number, step: number): number {
  return Math.ceil(value / step) * step
}

/**
 * Refuses metadata that llama.cpp would read beyond, or end the process for.
 *
 * @throws KvxError `ERR_KVX_MODEL`
 */
export function checkMetadata(gguf: Gguf, path: string): void {
  const { values } = gguf
  const architecture = values.get('general.architecture')?.value
  if (typeof architecture !== 'string') throw damaged(path, 'general.architecture is not a string')
  checkVocabulary(gguf, path)
  const layers = values.get(`${architecture}.block_count`)?.value
  if (typeof layers === 'number' && (layers < 1 || layers > mostLayers)) {
    throw damaged(path, `it has ${String(layers)} layers instead of 1 to ${String(mostLayers)}`)
  }
}

function checkVocabulary({ values }: Gguf, path: string): void {
  const key = (name: string) => `tokenizer.ggml.${name}`
  const tokens = values.get(tokensKey)
  const model = values.get(key('model'))
  if (!tokens || !model || model.value === 'no_vocab' || model.value === 'none') {
    throw refused(
      path,
      'has no vocabulary (tokenizer.ggml.tokens): it cannot read text. Take a GGUF file of a whole language model.',
    )
  }
  const count = tokens.elements?.count ?? 0
  if (model.type !== string) throw damaged(path, `${key('model')} is not a string`)
  if (tokens.elements?.type !== string || count < 1) {
    throw damaged(path, `${tokensKey} is not a list of strings`)
  }
  if (tokens.elements.twice !== undefined) {
    throw damaged(path, `token ${String(tokens.elements.twice)} of the vocabulary was there before`)
  }
  for (const [name, type] of [
    ['scores', f32],
    ['token_type', i32],
  ] as const) {
    const entry = values.get(key(name))
    if (!entry) continue
    if (entry.elements?.type !== type || entry.elements.count !== count) {
      throw damaged(
        path,
        `${key(name)} does not have one number for each of ${String(count)} tokens`,
      )
    }
  }
  const merges = values.get(key('merges'))
  if (merges && merges.elements?.type !== string) {
    throw damaged(path, `${key('merges')} is not a list of strings`)
  }
}
