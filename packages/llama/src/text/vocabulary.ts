import type { LlamaModel as Weights, Token, TokenAttributes } from 'node-llama-cpp'

/** What llama.cpp knows about a token, as far as it says how its bytes are written. */
export type Attributes = Pick<
  TokenAttributes,
  'unknown' | 'normal' | 'control' | 'userDefined' | 'byte'
>

/** How a tokenizer writes text into its vocabulary. */
export type VocabularyKind = `${Weights['vocabularyType']}`

export const kindOf = (weights: Pick<Weights, 'vocabularyType'>): VocabularyKind =>
  weights.vocabularyType

const none = new Uint8Array()
const blockUnits = 16_384

/**
 * The bytes that each token stands for, as llama.cpp writes them, but token by token and with nothing left
 * out: of a whole text llama.cpp drops the first blank, and blanks before some punctuation. An answer goes
 * on where the prompt ended, so its text is that of its tokens.
 */
export class Vocabulary {
  readonly size: number
  readonly #weights: Weights
  readonly #texts: readonly string[]
  readonly #marksBlanks: boolean
  /** 1 for each byte that the vocabulary has, 0 for one that llama.cpp leaves out; undefined when it has all. */
  readonly #known: Uint8Array | undefined
  /** The most bytes of a text that one token can stand for; undefined where tokenizers leave text out. */
  readonly longest: number | undefined
  /** The tokenizer puts a blank before a text that begins without one. */
  readonly addsBlank: boolean

  constructor(weights: Weights) {
    this.#weights = weights
    this.#texts = weights.fileInfo.metadata.tokenizer.ggml.tokens
    this.size = this.#texts.length
    this.#marksBlanks = marksBlanks(weights, this.#texts)
    this.longest = this.#longest()
    this.#known = knownBytes(weights, this.#texts)
    const [first] = weights.tokenize('a', false)
    this.addsBlank = first !== undefined && this.bytes(first)[0] === 0x20
  }

  /** Whether the length of a text alone tells that it has more tokens than so many. */
  tellsMoreThan(tokens: number, text: string): boolean {
    if (this.longest === undefined) return false
    const enough = tokens * this.longest
    if (text.length * 3 <= enough) return false
    const table = this.#known
    if (!table) return Buffer.byteLength(text) > enough
    // Block by block, since a text of megabytes is known to be too long after its beginning.
    let known = 0
    for (let from = 0; from < text.length && known <= enough;) {
      let to = from + blockUnits
      // The two halves of a character stay together.
      if ((text.charCodeAt(to - 1) & 0xfc00) === 0xd800) to++
      const block = Buffer.from(text.slice(from, to))
      for (const byte of block) known += table[byte] ?? 0
      from = to
    }
    return known > enough
  }

  #longest(): number | undefined {
    const { ggml } = this.#weights.fileInfo.metadata.tokenizer
    // Of these it is known that every byte of a text is in a token. Others normalise the text, or have one
    // token for all that they do not know.
    if (!['llama', 'gpt2', 'rwkv'].includes(ggml.model) || 'normalizer' in ggml) return undefined
    let longest = 1
    for (let id = 0; id < this.size; id++) {
      const { lstrip, rstrip } = this.#weights.getTokenAttributes(id as Token)
      if (lstrip || rstrip) return undefined
      // A special token has no text of its own, but is written in prompts.
      const written = Buffer.byteLength(this.#texts[id] ?? '')
      longest = Math.max(longest, this.bytes(id).length || written)
    }
    return longest
  }

  /** The text of a special token is empty. */
  bytes(token: number): Uint8Array {
    const text = this.#texts[token] ?? ''
    const attributes = this.#weights.getTokenAttributes(token as Token)
    return bytesOf(this.#weights.vocabularyType, text, attributes, this.#marksBlanks)
  }
}

/** Only vocabularies of letters can lack a byte: the others have a name for each, or a token for all unknown. */
function knownBytes(weights: Weights, texts: readonly string[]): Uint8Array | undefined {
  if (kindOf(weights) !== 'bpe') return undefined
  const letters = new Set(texts.filter((text) => text.length === 1))
  const known = new Uint8Array(256)
  for (const [letter, byte] of byteOf) known[byte] = letters.has(letter) ? 1 : 0
  return known.includes(0) ? known : undefined
}

/** Whether a vocabulary of kind `bpe` writes blanks as `▁`, as SentencePiece does, and not as bytes. */
function marksBlanks(weights: Weights, texts: readonly string[]): boolean {
  if (kindOf(weights) !== 'bpe') return false
  const marked = texts.findIndex(
    (text, id) => text.includes('▁') && weights.getTokenAttributes(id as Token).normal,
  )
  // llama.cpp alone knows: it tells a letter that is no byte of the other alphabet in its own way.
  return marked >= 0 && !weights.detokenize([marked as Token]).includes('[UNK_BYTE')
}

/**
 * @param text as it stands in the vocabulary
 * @param marked of `bpe` alone: blanks are written `▁`
 */
export function bytesOf(
  kind: VocabularyKind,
  text: string,
  attributes: Attributes,
  marked: boolean,
): Uint8Array {
  if (attributes.unknown || attributes.control) return none
  switch (kind) {
    case 'none':
      return none
    case 'rwkv':
      return unescaped(text)
    case 'plamo2':
      return attributes.byte ? ofByteName(text) : Buffer.from(text)
    case 'spm':
    case 'wpm':
    case 'ugm':
    case 'bpe':
      if (attributes.userDefined) return Buffer.from(text)
      if (attributes.byte) return ofByteName(text)
      if (!attributes.normal) return none
      return kind === 'bpe' && !marked ? ofLetters(text) : Buffer.from(text.replaceAll('▁', ' '))
  }
}

/** `<0x0A>`. */
function ofByteName(text: string): Uint8Array {
  const [, digits] = /^<0x([\da-f]{2})>$/i.exec(text) ?? []
  return digits === undefined ? Buffer.from(text) : Uint8Array.of(parseInt(digits, 16))
}

/** The alphabet of GPT-2: printable bytes are themselves, the others letters from U+0100 on. */
const byteOf = new Map<string, number>()
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable =
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255)
  byteOf.set(String.fromCodePoint(printable ? byte : next++), byte)
}

function ofLetters(text: string): Uint8Array {
  const bytes: number[] = []
  for (const letter of text) {
    const byte = byteOf.get(letter)
    if (byte === undefined) bytes.push(...Buffer.from(letter))
    else bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

/** With `\n`, `\r`, `\t` and `\x0a`, as in Python. */
function unescaped(text: string): Uint8Array {
  const named: Record<string, string> = { n: '\n', r: '\r', t: '\t' }
  const parts = [...text.matchAll(/\\x([\da-f]{2})|\\([^])|[^\\]+/g)]
  return Buffer.concat(
    parts.map(([whole, hex, letter]) => {
      if (hex !== undefined) return Uint8Array.of(parseInt(hex, 16))
      return Buffer.from(letter === undefined ? whole : (named[letter] ?? letter))
    }),
  )
}
