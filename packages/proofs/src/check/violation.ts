/** What must not happen has happened. */
export class Violation extends Error {
  readonly check: string

  constructor(check: string, text: string) {
    super(text)
    this.check = check
  }
}

export function violate(check: string, text: string): never {
  throw new Violation(check, text)
}
