const replacement = '\ufffd'

/**
 * Turns tokens into text one by one. A character may be spread over several tokens: its text comes with
 * the last of them.
 */
export class StreamingDetokenizer {
  readonly #detokenize: (tokens: readonly number[]) => string
  // Tokens that are detokenized together with new ones, because a tokenizer may join them; `#known` is
  // their text, which has been given out.
  #context: number[] = []
  #known = ''
  #pending: number[] = []

  constructor(detokenize: (tokens: readonly number[]) => string) {
    this.#detokenize = detokenize
  }

  /** @returns the text that is complete with this token; may be empty */
  push(token: number): string {
    this.#pending.push(token)
    const text = this.#detokenize([...this.#context, ...this.#pending])
    return text.endsWith(replacement) ? '' : this.#give(text)
  }

  /** The text of an incomplete character at the end: U+FFFD. */
  flush(): string {
    return this.#pending.length === 0
      ? ''
      : this.#give(this.#detokenize([...this.#context, ...this.#pending]))
  }

  #give(text: string): string {
    const delta = text.slice(this.#known.length)
    this.#context = this.#pending
    this.#pending = []
    this.#known = this.#detokenize(this.#context)
    return delta
  }
}
