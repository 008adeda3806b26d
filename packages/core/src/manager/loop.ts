/**
 * Runs a reducer: events in, effects out, one at a time. An effect that raises an event at once has it
 * handled after the present one.
 */
export class Loop<Event, Effect> {
  readonly #step: (event: Event, now: number) => Effect[]
  readonly #perform: (effect: Effect) => void
  readonly #queue: Event[] = []
  readonly #timer: NodeJS.Timeout
  #running = false

  constructor(
    step: (event: Event, now: number) => Effect[],
    perform: (effect: Effect) => void,
    tick: Event,
  ) {
    this.#step = step
    this.#perform = perform
    this.#timer = setInterval(() => {
      this.dispatch(tick)
    }, tickMs)
    this.#timer.unref()
  }

  dispatch(event: Event): void {
    this.#queue.push(event)
    if (this.#running) return
    this.#running = true
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
        for (const effect of this.#step(next, performance.now())) this.#perform(effect)
      }
    } finally {
      this.#running = false
    }
  }

  close(): void {
    clearInterval(this.#timer)
  }
}

/** How exactly deadlines are kept. */
const tickMs = 50
