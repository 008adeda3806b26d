/** What the world writes down itself, to judge by: requests, and pages that have changed hands. */
import type { Clock } from '../machine/clock.ts'
import type { Slot } from '../machine/process.ts'
import { spoil, type Job } from './legs.ts'
import type { PageBook } from './pages.ts'

export class Books {
  readonly jobs: Job[] = []
  /** Requests by their end at decode. */
  readonly totals = { succeeded: 0, failed: 0 }
  /** Pages have changed hands since the last check. */
  readonly touched: PageBook[] = []
  readonly #clock: Clock

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** A fault concerns the process: its requests may fail. */
  hit(slot: Slot): void {
    slot.hitAt = this.#clock.now
    for (const job of this.jobs) if (job[slot.side] === slot.instance) spoil(job)
  }

  checkPages(): void {
    const { touched } = this
    if (touched.length === 0) return
    for (const book of touched) book.check()
    touched.length = 0
  }
}
