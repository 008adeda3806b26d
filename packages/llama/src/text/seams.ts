const blank = 0x20
/** As which SentencePiece writes a blank. */
const mark = 0x2581

/**
 * Where a text can be cut without a change of its tokens: between two characters that stand side by side in no
 * token of the vocabulary. It holds for a tokenizer that only ever joins neighbours whose texts together are a
 * token: nothing joins across such a place, and what happens on one side does not matter to the other.
 */
export class Seams {
  /** A character that no token has. */
  readonly stranger: string
  readonly #joined = new Set<number>()

  /** @param texts of all tokens, special ones too */
  constructor(texts: Iterable<string>) {
    const known = new Set<number>()
    for (const text of texts) {
      let before: number | undefined
      for (const character of text) {
        const code = codeOf(character)
        known.add(code)
        if (before !== undefined) this.#joined.add(pairOf(before, code))
        before = code
      }
    }
    let stranger = 0x10fffd
    while (known.has(stranger)) stranger--
    this.stranger = String.fromCodePoint(stranger)
  }

  /** Pieces of at least so many UTF-16 units, and of more only as far as the next seam is away. */
  *pieces(text: string, units: number): Generator<string> {
    let from = 0
    let at = 0
    let before: number | undefined
    for (const character of text) {
      const code = codeOf(character)
      if (before !== undefined && at - from >= units && !this.#joined.has(pairOf(before, code))) {
        yield text.slice(from, at)
        from = at
      }
      at += character.length
      before = code
    }
    if (at > from) yield text.slice(from)
  }
}

function codeOf(character: string): number {
  const code = character.codePointAt(0) ?? 0
  return code === blank ? mark : code
}

const pairOf = (left: number, right: number) => left * 0x110000 + right
