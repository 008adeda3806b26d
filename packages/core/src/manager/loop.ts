/**
 * Runs a reducer: events in, effects out, one at a time. An effect that raises an event at once has it
 * handled after the present one. The state counts on every effect of a step: one that throws does not cost
 * the others, and is told when all is done.
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
    const defects: unknown[] = []
    try {
      for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
        for (const effect of this.#step(next, performance.now())) {
          try {
            this.#perform(effect)
          } catch (defect) {
            defects.push(defect)
          }
        }
      }
    } finally {
      this.#running = false
    }
    if (defects.length > 0) throw new AggregateError(defects, 'effects could not be performed')
  }

  close(): void {
    clearInterval(this.#timer)
  }
}

/** How exactly deadlines are kept. */
const tickMs = 50
