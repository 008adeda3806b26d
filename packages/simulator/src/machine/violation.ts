/** A broken invariant. It ends the schedule. */
export class Violation extends Error {
  /** Which check: what a shrunk schedule must still fail. */
  readonly check: string

  constructor(check: string, text: string) {
    super(`${check}: ${text}`)
    this.check = check
  }
}

export function violate(check: string, text: string): never {
  throw new Violation(check, text)
}
