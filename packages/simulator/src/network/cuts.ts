/** Partitions: between which processes nothing passes for now. */
import type { Clock } from '../machine/clock.ts'
import type { Slot } from '../machine/process.ts'

export class Cuts {
  readonly #clock: Clock
  /** Until when, by the two slots. */
  readonly #until = new Map<string, number>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  isCut(a: Slot, b: Slot): boolean {
    return this.#until.size > 0 && (this.#until.get(keyOf(a, b)) ?? 0) > this.#clock.now
  }

  cut(a: Slot, b: Slot, ms: number): void {
    this.#until.set(keyOf(a, b), this.#clock.now + ms)
  }

  mend(slots: readonly Slot[]): void {
    for (const a of slots) for (const b of slots) this.#until.delete(keyOf(a, b))
  }
}

function keyOf(a: Slot, b: Slot): string {
  return a.name < b.name ? `${a.name}/${b.name}` : `${b.name}/${a.name}`
}
