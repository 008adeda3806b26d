/** The processes of one fixture. One that a test has left as it was serves the next. */
import type { Fixture } from '../fixture.ts'
import { Party, type Side } from './party.ts'

export class Parties {
  readonly #fixture: Fixture
  readonly #idle: Party[] = []

  constructor(fixture: Fixture) {
    this.#fixture = fixture
  }

  take(side: Side): Party {
    const at = this.#idle.findIndex((party) => party.side === side && party.isAlive)
    const [idle] = at < 0 ? [] : this.#idle.splice(at, 1)
    return idle ?? new Party(this.#fixture, side)
  }

  async giveBack(party: Party): Promise<void> {
    if (party.reusable && party.isAlive) {
      try {
        await party.ask('reset')
        this.#idle.push(party)
        return
      } catch {
        // An engine that does not close cannot serve another test: its own test has said so.
      }
    }
    await party.kill()
  }

  async close(): Promise<void> {
    await Promise.all(this.#idle.splice(0).map((party) => party.kill()))
  }
}
