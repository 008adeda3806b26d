/** A stop string, and how much of its beginning the text that has come so far ends with. */
interface Watched {
  readonly stop: string
  /** For each length: that of the next shorter beginning that a beginning of this length ends with. */
  readonly shorter: Uint32Array
  matched: number
}

/**
 * Finds stop strings in text that arrives in pieces. Text that may be the beginning of a stop string is
 * held back, so nothing of one is ever given out. Each character is looked at once for each stop string
 * (Knuth, Morris and Pratt), however long these are.
 */
export class StopMatcher {
  readonly #watched: readonly Watched[]
  #held = ''
  #found: string | undefined

  /** Empty strings are ignored. */
  constructor(stops: readonly string[]) {
    this.#watched = stops
      .filter((stop) => stop !== '')
      .map((stop) => ({ stop, shorter: shorterBeginnings(stop), matched: 0 }))
  }

  /** Whether a stop string has been found: what follows it is dropped. */
  get stopped(): boolean {
    return this.#found !== undefined
  }

  /** The stop string that has been found. */
  get found(): string | undefined {
    return this.#found
  }

  /** @returns the text that is certain to come before any stop string */
  push(text: string): string {
    if (this.stopped) return ''
    const all = this.#held + text
    for (let end = this.#held.length; end < all.length;) {
      const unit = all.charCodeAt(end++)
      let found = ''
      for (const watched of this.#watched) {
        advance(watched, unit)
        // Whichever is complete first, however the text was cut into pieces; of two, the longer.
        const { stop, matched } = watched
        if (matched === stop.length && matched > found.length) found = stop
      }
      if (found !== '') {
        this.#found = found
        this.#held = ''
        return all.slice(0, end - found.length)
      }
    }
    const keep = this.#watched.reduce((most, { matched }) => Math.max(most, matched), 0)
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

function advance(watched: Watched, unit: number): void {
  const { stop, shorter } = watched
  let length = watched.matched
  while (length > 0 && stop.charCodeAt(length) !== unit) length = shorter[length] ?? 0
  watched.matched = stop.charCodeAt(length) === unit ? length + 1 : 0
}

function shorterBeginnings(stop: string): Uint32Array {
  const shorter = new Uint32Array(stop.length + 1)
  for (let end = 1, length = 0; end < stop.length; end++) {
    while (length > 0 && stop.charCodeAt(end) !== stop.charCodeAt(length)) {
      length = shorter[length] ?? 0
    }
    if (stop.charCodeAt(end) === stop.charCodeAt(length)) length++
    shorter[end + 1] = length
  }
  return shorter
}
