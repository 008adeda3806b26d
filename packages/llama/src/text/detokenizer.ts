/**
 * Turns tokens into text one by one. A character may be spread over several tokens: its text comes with
 * the last of them.
 */
export class StreamingDetokenizer {
  readonly #bytesOf: (token: number) => Uint8Array
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  #dropsBlank: boolean

  /**
   * @param bytesOf the bytes of a token
   * @param dropsBlank the first text begins with a blank that the tokenizer put there
   */
  constructor(bytesOf: (token: number) => Uint8Array, dropsBlank: boolean) {
    this.#bytesOf = bytesOf
    this.#dropsBlank = dropsBlank
  }

  /** @returns the text that is complete with this token; may be empty */
  push(token: number): string {
    const bytes = this.#bytesOf(token)
    if (bytes.length === 0) return ''
    const from = this.#dropsBlank && bytes[0] === 0x20 ? 1 : 0
    this.#dropsBlank = false
    return this.#decoder.decode(bytes.subarray(from), { stream: true })
  }

  /** The text of an incomplete character at the end: U+FFFD. */
  flush(): string {
    return this.#decoder.decode()
  }
}
