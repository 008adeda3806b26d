import { tinyModel, type Contents, type List, type TensorOf, type Value } from './gguf.ts'

/** One vocabulary for each kind of tokenizer: the same words in its own way of writing. */

const typeOf = { normal: 1, unknown: 2, control: 3, userDefined: 4, byte: 6 } as const

type Entry = readonly [text: string, kind: keyof typeof typeOf]

const words = ['the', 'a', 'cat', 'dog', 'fox', 'is', 'of', 'naïve', '世界', 'don']
const letters = Array.from('abcdefghijklmnopqrstuvwxyzABC0123456789.,!?\'"<>|_-:;()é世界😀')
const parts = ['th', 'er', 'in', 'at', 'og', 'll', "n't", "'s", ' .']
const specials: Entry[] = [
  ['<|im_start|>', 'control'],
  ['<|im_end|>', 'control'],
  ['<tool>', 'userDefined'],
]
const byteNames: Entry[] = Array.from({ length: 256 }, (_, byte) => [
  `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  'byte',
])
const marked = (text: string) => text.replaceAll(' ', '▁')
const normal = (texts: readonly string[]): Entry[] =>
  [...new Set(texts)].map((text) => [text, 'normal'])

/** GPT-2's alphabet, from its description. */
const letterOf = (() => {
  const printable = [...range(33, 126), ...range(161, 172), ...range(174, 255)]
  const letters = new Map(printable.map((byte) => [byte, String.fromCodePoint(byte)]))
  let next = 256
  for (const byte of range(0, 255)) {
    if (!letters.has(byte)) letters.set(byte, String.fromCodePoint(next++))
  }
  return letters
})()
const lettered = (text: string) => [...Buffer.from(text)].map((byte) => letterOf.get(byte)).join('')

function* range(from: number, to: number): Generator<number> {
  for (let value = from; value <= to; value++) yield value
}

function sentencePiece(): Entry[] {
  return [
    ['<unk>', 'unknown'],
    ['<s>', 'control'],
    ['</s>', 'control'],
    ...byteNames,
    ...normal(['▁', ...letters, ...parts.map(marked), ...words.map((word) => `▁${word}`)]),
    ...specials,
  ]
}

function bytePairs(): Entry[] {
  return [
    ...normal([
      ...[...letterOf.values()],
      ...[...words.map((word) => ` ${word}`), ...parts].flatMap((text) => {
        const whole = Array.from(lettered(text))
        return whole.map((_, index) => whole.slice(0, index + 1).join(''))
      }),
    ]),
    ['<|endoftext|>', 'control'],
    ...specials,
  ]
}

/** Each longer piece of `bytePairs` from the one that is a letter shorter. */
function merges(): string[] {
  const texts = bytePairs().filter(
    ([text, kind]) => kind === 'normal' && Array.from(text).length > 1,
  )
  return texts.map(
    ([text]) => `${Array.from(text).slice(0, -1).join('')} ${Array.from(text).at(-1) ?? ''}`,
  )
}

function wordPieces(): Entry[] {
  return [
    ['[UNK]', 'unknown'],
    ['[CLS]', 'control'],
    ['[SEP]', 'control'],
    // As the converter writes them: words have the mark, what goes on with a word has none.
    ...normal([...letters, ...words].flatMap((text) => [`▁${text}`, text])),
    ...specials,
  ]
}

function rwkv(): Entry[] {
  const escaped = Array.from({ length: 255 }, (_, index) => {
    const byte = index + 1
    if (byte === 0x5c) return '\\\\'
    if (byte === 0x0a) return '\\n'
    return byte >= 32 && byte < 127
      ? String.fromCharCode(byte)
      : `\\x${byte.toString(16).padStart(2, '0')}`
  })
  return [
    ['<s>', 'control'],
    ...normal([...escaped, ...words.map((word) => ` ${word}`), ...parts, '\\n\\n']),
  ]
}

export interface Tokenizer {
  readonly name: string
  readonly entries: readonly Entry[]
  readonly values: readonly (Value | List)[]
}

const text = (key: string, value: string): Value => ({
  key: `tokenizer.ggml.${key}`,
  type: 'string',
  value,
})
const id = (key: string, value: number): Value => ({
  key: `tokenizer.ggml.${key}`,
  type: 'u32',
  value,
})
const flag = (key: string, value: boolean): Value => ({
  key: `tokenizer.ggml.${key}`,
  type: 'bool',
  value,
})

const pairs = (pre: string): Tokenizer => {
  const entries = bytePairs()
  const end = entries.findIndex(([name]) => name === '<|endoftext|>')
  return {
    name: `BPE (${pre})`,
    entries,
    values: [
      text('model', 'gpt2'),
      text('pre', pre),
      { key: 'tokenizer.ggml.merges', type: 'array', of: 'string', value: merges() },
      id('bos_token_id', end),
      id('eos_token_id', end),
    ],
  }
}

export const tokenizers: readonly Tokenizer[] = [
  { name: 'SPM', entries: sentencePiece(), values: [text('model', 'llama')] },
  {
    name: 'SPM without a blank before the text',
    entries: sentencePiece(),
    values: [text('model', 'llama'), flag('add_space_prefix', false)],
  },
  { name: 'UGM', entries: sentencePiece(), values: [text('model', 't5')] },
  pairs('qwen2'),
  // llama.cpp takes blanks out of the text of these.
  pairs('llama-bpe'),
  {
    name: 'WPM',
    entries: wordPieces(),
    values: [
      text('model', 'bert'),
      id('bos_token_id', 1),
      id('eos_token_id', 2),
      id('seperator_token_id', 2),
      id('unknown_token_id', 0),
    ],
  },
  {
    name: 'RWKV',
    entries: rwkv(),
    values: [text('model', 'rwkv'), id('bos_token_id', 0), id('eos_token_id', 0)],
  },
]

/** A small model of architecture llama with this tokenizer, for prompts of any length. */
export function modelWith({ entries, values }: Tokenizer): Contents {
  const list = (key: string, of: List['of'], value: List['value']): List => ({
    ...{ key: `tokenizer.ggml.${key}`, type: 'array', of, value },
  })
  const { values: all, tensors } = tinyModel({
    context: 2 ** 20,
    values: [
      ...values,
      list(
        'tokens',
        'string',
        entries.map(([name]) => name),
      ),
      list(
        'token_type',
        'i32',
        entries.map(([, kind]) => typeOf[kind]),
      ),
      list(
        'scores',
        'f32',
        entries.map((_, index) => -index),
      ),
    ],
  })
  return { values: all, tensors: tensors.map((tensor) => resized(tensor, entries.length)) }
}

function resized(tensor: TensorOf, rows: number): TensorOf {
  const [columns = 0] = tensor.dims
  if (tensor.name !== 'token_embd.weight') return tensor
  const data = Float32Array.from({ length: columns * rows }, (_, i) => Math.sin(i * 12.9898) * 0.3)
  return { ...tensor, dims: [columns, rows], data }
}
