/** A bootstrap service with instances that are registered, and what anybody with the token may ask it. */
import * as v from 'valibot'
import {
  packInstance,
  RankTable,
  replySchema,
  requestSchema,
  Published,
  Waits,
  type BootstrapRequest,
  type RankRecord,
} from '@kvx/core/wire'
import type { FrameRandom } from '../random.ts'
import { name128, rank } from './fixtures.ts'
import type { Template, World } from './world.ts'

const record = (number: number, change: Partial<RankRecord> = {}): RankRecord => ({
  instance: `prefill-${String(number)}`,
  incarnation: name128('P', number),
  endpoint: `tcp://10.0.0.${String(number)}:4000`,
  rank,
  backend: 'fake',
  ...change,
})

export class BootstrapWorld implements World {
  readonly name = 'bootstrap'
  readonly #random: FrameRandom
  readonly #table: RankTable
  readonly #waits: Waits
  readonly #published: Published
  readonly #askers = [{}, {}, {}]

  constructor(random: FrameRandom) {
    this.#random = random
    this.#table = new RankTable(name128('B'), () => {
      this.#waits.look()
    })
    this.#waits = new Waits(this.#table)
    this.#published = new Published(() => this.#table.latest())
    for (const number of [1, 2]) this.#table.put(record(number), 600_000, 'register')
  }

  /** What can be asked of it. */
  get state() {
    return {
      latest: this.#table.read(undefined),
      known: [1, 2].map((number) => this.#table.read(`prefill-${String(number)}`)),
    }
  }

  /** As `BootstrapServer` does with a request, and a client with an answer. */
  receive(message: Template): 'taken' | 'refused' {
    v.safeParse(replySchema, message)
    const parsed = v.safeParse(requestSchema, message)
    if (!parsed.success) {
      v.summarize(parsed.issues)
      return 'refused'
    }
    const request = parsed.output
    switch (request.kind) {
      case 'register':
      case 'renew':
        return this.#table.put(request.record, request.leaseMs, request.kind) === undefined
          ? 'taken'
          : 'refused'
      case 'deregister':
        this.#table.remove(request.record)
        return 'taken'
      case 'read':
        this.#waits.ask(request, {
          connection: this.#random.one(this.#askers),
          answer: () => undefined,
        })
        return 'taken'
      default:
        return this.#receiveSamples(request)
    }
  }

  /** Who computes which requests. */
  #receiveSamples(
    request: Extract<BootstrapRequest, { kind: 'publish' | 'withdraw' | 'ask' | 'unask' }>,
  ): 'taken' | 'refused' {
    const connection = this.#random.one(this.#askers)
    const samples = request.samples.map(([room, index]) => ({ room, index }))
    switch (request.kind) {
      case 'publish': {
        const { instance, rank } = request.record
        const isTaken = this.#published.publish(instance, rank.dp, samples, connection)
        return isTaken ? 'taken' : 'refused'
      }
      case 'withdraw':
        this.#published.withdraw(request.record.instance, samples, connection)
        return 'taken'
      case 'ask':
        for (const sample of samples) {
          const { instance } = request
          this.#published.ask(connection, { instance, sample, answer: () => undefined })
        }
        return 'taken'
      case 'unask':
        this.#published.unask(connection, samples)
        return 'taken'
    }
  }

  /** Nothing happens by itself. */
  turn(): void {
    return
  }

  templates(): readonly Template[] {
    const found = this.#table.read(undefined)
    const since = { service: name128('B'), revision: found?.revision ?? 0 }
    return [1, 2, 3].flatMap((number) => [
      { v: 1, kind: 'register', record: record(number), leaseMs: 600_000 },
      { v: 1, kind: 'renew', record: record(number), leaseMs: 600_000 },
      {
        v: 1,
        kind: 'renew',
        record: record(number, { incarnation: name128('P', 9) }),
        leaseMs: 600_000,
      },
      { v: 1, kind: 'deregister', record: record(number) },
      { v: 1, kind: 'read', instance: `prefill-${String(number)}` },
      { v: 1, kind: 'read', since, waitMs: 60_000 },
      { v: 1, kind: 'instance', ...(found ? { found: packInstance(found) } : {}) },
      { v: 1, kind: 'refused', reason: 'full', text: 'no room' },
      { v: 1, kind: 'publish', record: record(number), samples: [[7n, 0]] },
      { v: 1, kind: 'withdraw', record: record(number), samples: [[7n, 0]] },
      { v: 1, kind: 'ask', instance: `prefill-${String(number)}`, samples: [[7n, 0]] },
      { v: 1, kind: 'unask', samples: [[7n, 0]] },
      { v: 1, kind: 'published', found: [7n, 0, 0] },
    ])
  }

  leftovers(): string {
    this.#waits.clear()
    for (const asker of this.#askers) this.#published.drop(asker)
    this.#table.clear()
    return this.#table.read(undefined) === undefined ? '' : 'records'
  }
}
