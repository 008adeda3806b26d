import type { LlamaModel as Weights, Token } from 'node-llama-cpp'
import { inOrder, partition, type Special } from './partition.ts'
import { Seams } from './seams.ts'
import { kindOf } from './vocabulary.ts'

/** A vocabulary in llama.cpp. */
export interface Words extends Pick<Weights, 'getTokenAttributes' | 'vocabularyType' | 'fileInfo'> {
  tokenize(text: string, specialTokens: false): readonly number[]
}

/**
 * A tokenizer with the results of llama.cpp, special tokens recognised, whose time grows with the text alone. It
 * stops once there are `enough` tokens.
 *
 * @param pieceUnits UTF-16 units of a piece of text that llama.cpp tokenizes at a time, where it can be cut
 */
export function tokenizerOf(
  words: Words,
  pieceUnits = 512,
): (text: string, enough: number) => Uint32Array {
  const specials = specialsOf(words)
  const piecesOf = piecewise(words, pieceUnits)
  function* partsOf(text: string): Generator<readonly number[]> {
    for (const fragment of partition(text, specials)) {
      if (typeof fragment === 'number') yield [fragment]
      else yield* piecesOf(fragment)
    }
  }
  return (text, enough) => {
    const parts: (readonly number[])[] = []
    let count = 0
    // Half a surrogate pair is what it becomes on its way to llama.cpp anyhow.
    for (const tokens of partsOf(Buffer.from(text).toString())) {
      parts.push(tokens)
      count += tokens.length
      if (count >= enough) break
    }
    const all = new Uint32Array(count)
    let at = 0
    for (const tokens of parts) {
      all.set(tokens, at)
      at += tokens.length
    }
    // A single piece may have had more.
    return all.slice(0, enough)
  }
}

/** The tokens of a vocabulary that are found in a text as they are written. */
function specialsOf(words: Words): Special[] {
  const specials: Special[] = []
  textsOf(words).forEach((text, id) => {
    const attributes = words.getTokenAttributes(id as Token)
    if (!attributes.control && !attributes.unknown && !attributes.userDefined) return
    specials.push({ id, text, takesLeft: attributes.lstrip, takesRight: attributes.rstrip })
  })
  return inOrder(specials)
}

/** The tokens of a text without special ones, piece by piece where a text of megabytes would take minutes. */
function piecewise(words: Words, units: number): (text: string) => Iterable<readonly number[]> {
  const whole = (text: string) => words.tokenize(text, false)
  // Of these, llama.cpp copies all tokens so far for each character that is none. The others take linear time.
  if (kindOf(words) !== 'spm') return (text) => [whole(text)]
  // llama.cpp reads up to a zero byte, and has a text of its own for a token that has none.
  const texts = textsOf(words).map((text, id) =>
    text === '' || text.startsWith('\0') ? `[EMPTY_${String(id)}]` : text,
  )
  const seams = new Seams(texts)
  // Only what comes first has a blank put before it: in the other pieces it comes before the stranger.
  const { stranger } = seams
  const extra = whole(stranger).length
  return function* (text) {
    let isFirst = true
    for (const piece of seams.pieces(text, units)) {
      yield isFirst ? whole(piece) : whole(stranger + piece).slice(extra)
      isFirst = false
    }
  }
}

function textsOf({ fileInfo }: Words): readonly string[] {
  return fileInfo.metadata.tokenizer.ggml.tokens
}
