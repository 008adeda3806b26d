import { roomKey, type Sample } from '../protocol/keys.ts'

/** Requests of which it is known who computes them, and questions that wait, at the same time. */
const most = 65_536

type Answer = (sample: Sample, dp: number) => void

interface Question {
  /** Without a name: the instance that changed last. */
  readonly instance: string | undefined
  readonly sample: Sample
  readonly answer: Answer
}

/** Which data-parallel rank of prefill computes a request, as it was published, and who waits to learn it. */
export class Published {
  readonly #latest: () => string | undefined
  /** By instance and sample: the rank that was published last. */
  readonly #ranks = new Map<string, { dp: number; owner: object }>()
  /** By sample and connection. */
  readonly #questions = new Map<string, Map<object, Question>>()
  #asked = 0

  /** @param latest name of the instance that changed last */
  constructor(latest: () => string | undefined) {
    this.#latest = latest
  }

  /**
   * Holds until `owner` withdraws it, or its connection ends. Of several ranks the last one counts: the room was used again.
   * Returns false when there are too many.
   */
  publish(instance: string, dp: number, samples: readonly Sample[], owner: object): boolean {
    for (const sample of samples) {
      const key = keyOf(instance, sample)
      if (this.#ranks.size >= most && !this.#ranks.has(key)) return false
      this.#ranks.set(key, { dp, owner })
      for (const [connection, question] of this.#questions.get(nameOf(sample)) ?? [])
        this.#answer(connection, question)
    }
    return true
  }

  withdraw(instance: string, samples: readonly Sample[], owner: object): void {
    for (const sample of samples) {
      const key = keyOf(instance, sample)
      if (this.#ranks.get(key)?.owner === owner) this.#ranks.delete(key)
    }
  }

  /** Answers at once or when it is published. A question too many is not answered: who asks has a deadline. */
  ask(connection: object, question: Question): void {
    this.unask(connection, [question.sample])
    if (this.#answer(connection, question) || this.#asked >= most) return
    const name = nameOf(question.sample)
    const questions = this.#questions.get(name) ?? new Map<object, Question>()
    this.#questions.set(name, questions.set(connection, question))
    this.#asked++
  }

  unask(connection: object, samples: readonly Sample[]): void {
    for (const sample of samples) {
      const name = nameOf(sample)
      const questions = this.#questions.get(name)
      if (questions?.delete(connection)) this.#asked--
      if (questions?.size === 0) this.#questions.delete(name)
    }
  }

  /** The connection has ended: what it has published and asked is over. */
  drop(connection: object): void {
    for (const [key, { owner }] of this.#ranks) if (owner === connection) this.#ranks.delete(key)
    for (const questions of [...this.#questions.values()]) {
      const question = questions.get(connection)
      if (question) this.unask(connection, [question.sample])
    }
  }

  #answer(connection: object, { instance = this.#latest(), sample, answer }: Question): boolean {
    const found = instance === undefined ? undefined : this.#ranks.get(keyOf(instance, sample))
    if (!found) return false
    this.unask(connection, [sample])
    answer(sample, found.dp)
    return true
  }
}

function nameOf({ room, index }: Sample): string {
  return roomKey(room, index)
}

function keyOf(instance: string, sample: Sample): string {
  return `${nameOf(sample)} ${instance}`
}
