/** What everything simulated in one schedule shares: time, chance, names and the trace. */
import type { Random } from '../shape/random.ts'
import type { Shape } from '../shape/shape.ts'
import { Clock } from './clock.ts'

export class Context {
  readonly shape: Shape
  readonly random: Random
  readonly clock = new Clock()
  /** What happened, for a person; kept only while a schedule is replayed. */
  readonly trace: string[] | undefined
  #serial = 0

  constructor(shape: Shape, random: Random, traced: boolean) {
    this.shape = shape
    this.random = random
    this.trace = traced ? [] : undefined
  }

  /** Another number in each call. */
  serial(): number {
    return ++this.#serial
  }

  /** 32 hexadecimal digits that begin with their kind. */
  name(kind: string): string {
    return kind + this.serial().toString(16).padStart(31, '0')
  }

  log(text: () => string): void {
    this.trace?.push(`${String(Math.round(this.clock.now)).padStart(6)}  ${text()}`)
  }
}
