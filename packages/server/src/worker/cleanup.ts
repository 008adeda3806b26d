/** What has to be undone, last first. */
export class Cleanup {
  readonly #steps: (() => Promise<void>)[] = []

  add(step: () => Promise<void>): void {
    this.#steps.push(step)
  }

  /** Runs every step, also when one fails; rejects with the first failure. */
  async run(): Promise<void> {
    const failures: unknown[] = []
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      await step().catch((cause: unknown) => failures.push(cause))
    }
    if (failures.length > 0) throw failures[0]
  }
}
