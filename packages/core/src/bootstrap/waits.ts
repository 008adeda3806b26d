import { type InstanceRecord, type ReadRequest } from './messages.ts'
import { type RankTable } from './table.ts'

/** Questions that may wait at the same time. */
const maxHeld = 4_096

interface Asker {
  /** Whoever asks again, asks instead: at most one question of each waits. */
  readonly connection: object
  readonly answer: (found: InstanceRecord | undefined) => void
}

interface Held extends Asker {
  readonly request: ReadRequest
  readonly expiry: NodeJS.Timeout
}

/** Questions about instances that are answered when there is news, or when they have waited long enough. */
export class Waits {
  readonly #table: RankTable
  readonly #held = new Map<object, Held>()

  constructor(table: RankTable) {
    this.#table = table
  }

  /** Answers at once when it can tell news, need not wait, or when too many wait already. */
  ask(request: ReadRequest, asker: Asker): void {
    const { connection } = asker
    this.drop(connection)
    const found = this.#table.read(request.instance)
    const { waitMs } = request
    if (waitMs === undefined || isNews(request, found) || this.#held.size >= maxHeld) {
      asker.answer(found)
      return
    }
    const expiry = setTimeout(() => {
      this.#held.delete(connection)
      asker.answer(this.#table.read(request.instance))
    }, waitMs)
    this.#held.set(connection, { ...asker, request, expiry: expiry.unref() })
  }

  /** Answers every question that a change of the table has news for. */
  look(): void {
    for (const { connection, request, answer } of [...this.#held.values()]) {
      const found = this.#table.read(request.instance)
      if (!isNews(request, found)) continue
      this.drop(connection)
      answer(found)
    }
  }

  /** Forgets the question of a connection. */
  drop(connection: object): void {
    clearTimeout(this.#held.get(connection)?.expiry)
    this.#held.delete(connection)
  }

  clear(): void {
    for (const connection of [...this.#held.keys()]) this.drop(connection)
  }
}

function isNews({ since }: ReadRequest, found: InstanceRecord | undefined): boolean {
  return since?.service !== found?.service || since?.revision !== found?.revision
}
