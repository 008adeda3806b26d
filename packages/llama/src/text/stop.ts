/**
 * Finds stop strings in text that arrives in pieces. Text that may be the beginning of a stop string is
 * held back, so nothing of one is ever given out.
 */
export class StopMatcher {
  readonly #stops: readonly string[]
  #held = ''
  #stopped = false

  /** Empty strings are ignored. */
  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '')
  }

  /** Whether a stop string has been found: what follows it is dropped. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** @returns the text that is certain to come before any stop string */
  push(text: string): string {
    if (this.#stopped) return ''
    const all = this.#held + text
    const first = this.#stops
      .map((stop) => ({ start: all.indexOf(stop), length: stop.length }))
      .filter(({ start }) => start >= 0)
      // Whichever is complete first, however the text was cut into pieces; of two, the longer.
      .sort((a, b) => a.start + a.length - b.start - b.length || a.start - b.start)[0]
    if (first) {
      this.#stopped = true
      this.#held = ''
      return all.slice(0, first.start)
    }
    const keep = Math.max(0, ...this.#stops.map((stop) => overlap(all, stop)))
    this.#held = all.slice(all.length - keep)
    return all.slice(0, all.length - keep)
  }

  /** What was held back, once no more text comes. */
  flush(): string {
    const held = this.#held
    this.#held = ''
    return held
  }
}

/** Length of the longest end of `text` that is a beginning of `stop`, and not the whole of it. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(stop.length - 1, text.length); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length
  }
  return 0
}
