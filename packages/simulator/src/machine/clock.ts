interface Entry {
  readonly at: number
  /** Entries of one moment run in the order in which they were made. */
  readonly serial: number
  readonly run: () => void
}

/** Virtual time: what is to happen, in order. Nothing happens between two entries. */
export class Clock {
  now = 0
  /** Entries that have run. */
  events = 0
  readonly #heap: Entry[] = []
  #serial = 0

  at(time: number, run: () => void): void {
    const heap = this.#heap
    const entry = { at: Math.max(time, this.now), serial: this.#serial++, run }
    let i = heap.length
    heap.push(entry)
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (!isBefore(entry, heap[parent]!)) break
      heap[i] = heap[parent]!
      i = parent
    }
    heap[i] = entry
  }

  after(ms: number, run: () => void): void {
    this.at(this.now + ms, run)
  }

  /** Runs the next entry if it is due by `until`; else time passes to `until`, and the answer is false. */
  step(until: number): boolean {
    const next = this.#heap[0]
    if (!next || next.at > until) {
      this.now = Math.max(this.now, until)
      return false
    }
    this.#pop()
    this.now = next.at
    this.events++
    next.run()
    return true
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()
    if (!last || heap.length === 0) return
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++
      if (!isBefore(heap[child]!, last)) break
      heap[i] = heap[child]!
      i = child
    }
    heap[i] = last
  }
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.at < b.at || (a.at === b.at && a.serial < b.serial)
}
