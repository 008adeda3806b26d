/** Requests that run all the time, and what became of each. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '@kvx/simulator'
import { ask, type Outcome } from './client.ts'
import type { Question } from './questions.ts'
import { patienceMs, recoveryMs } from './settings.ts'

export interface Asked {
  readonly number: number
  readonly question: Question
  /** The tokens of a whole answer. */
  readonly expected: readonly number[]
  readonly startedAt: number
  /** To one worker, not through the router. */
  readonly direct: boolean
  readonly abort: AbortController
  /** Set once it has ended. */
  endedAt?: number
  outcome?: Outcome
}

/** Milliseconds until a lane whose request failed asks again. */
const pauseMs = 1_000

export class Load {
  /** Every request so far, in the order in which they began. */
  readonly asked: Asked[] = []
  readonly #url: string
  readonly #questions: readonly Question[]
  readonly #random: Random
  readonly #lanes: number
  readonly #listeners = new Set<(asked: Asked) => void>()
  /** Requests that have not ended. */
  readonly #live = new Set<Promise<Asked>>()
  #running: Promise<unknown> | undefined
  #stopping = false

  /** @param lanes requests that run all the time */
  constructor(url: string, questions: readonly Question[], random: Random, lanes: number) {
    this.#url = url
    this.#questions = questions
    this.#random = random
    this.#lanes = lanes
  }

  start(): void {
    this.#stopping = false
    this.#running = Promise.all(
      Array.from({ length: this.#lanes }, async () => {
        while (!this.#stopping) {
          const { outcome } = await this.#askOne()
          if (outcome?.kind !== 'ok') await sleep(pauseMs)
        }
      }),
    )
  }

  /** Resolves when the last request has ended, those to one worker included. */
  async stop(): Promise<void> {
    this.#stopping = true
    await this.#running
    await Promise.all(this.#live)
  }

  /** One more than the lanes ask. */
  askOneMore(): void {
    void this.#askOne()
  }

  /** Asks `count` questions, as many at a time as there are lanes. */
  async askSome(count: number): Promise<Asked[]> {
    let left = count
    const answers: Asked[] = []
    await Promise.all(
      Array.from({ length: this.#lanes }, async () => {
        while (left-- > 0) answers.push(await this.#askOne())
      }),
    )
    return answers
  }

  /** The live request through the router with a prompt of so many tokens: no two have as many. */
  live(tokens: number): Asked | undefined {
    return this.asked.findLast(
      ({ question, endedAt, direct }) =>
        endedAt === undefined && !direct && question.prompt.length === tokens,
    )
  }

  /** A question that nobody asks at the moment. */
  idleQuestion(): Question {
    const busy = new Set(
      this.asked.filter(({ endedAt }) => endedAt === undefined).map(({ question }) => question),
    )
    return this.#random.one(this.#questions.filter((question) => !busy.has(question)))
  }

  /** Asks one worker for its half of a request. */
  askWorker(
    url: string,
    question: Question,
    expected: readonly number[],
    bootstrap: object,
  ): Promise<Asked> & { asked: Asked } {
    return this.#ask(url, question, expected, bootstrap)
  }

  /**
   * Milliseconds from `since` to the first whole answer to a request through the router that began after it.
   * @throws Error when there is none for too long
   */
  success(since: number): Promise<number> {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        this.#listeners.delete(listener)
        reject(new Error(`no request succeeded within ${String(recoveryMs)} ms`))
      }, recoveryMs)
      const listener = ({ startedAt, direct, outcome }: Asked) => {
        if (startedAt < since || direct || outcome?.kind !== 'ok') return
        this.#listeners.delete(listener)
        clearTimeout(late)
        resolve(Date.now() - since)
      }
      this.#listeners.add(listener)
    })
  }

  #askOne(): Promise<Asked> {
    const question = this.idleQuestion()
    return this.#ask(this.#url, question, question.answer, undefined)
  }

  #ask(
    url: string,
    question: Question,
    expected: readonly number[],
    bootstrap: object | undefined,
  ): Promise<Asked> & { asked: Asked } {
    const { prompt, maxTokens } = question
    const abort = new AbortController()
    const asked: Asked = {
      number: this.asked.length + 1,
      question,
      expected,
      startedAt: Date.now(),
      direct: bootstrap !== undefined,
      abort,
    }
    this.asked.push(asked)
    const stream = this.#random.chance(0.75)
    const body = { prompt, max_tokens: maxTokens, stream, ...bootstrap }
    const ended = ask(url, body, { signal: abort.signal, patienceMs }).then((outcome) => {
      asked.outcome = outcome
      asked.endedAt = Date.now()
      this.#live.delete(ended)
      for (const listener of [...this.#listeners]) listener(asked)
      return asked
    })
    this.#live.add(ended)
    return Object.assign(ended, { asked })
  }
}
