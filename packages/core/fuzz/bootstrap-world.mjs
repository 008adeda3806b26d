/** A bootstrap service with instances that are registered, and what anybody with the token may ask it. */
import * as v from 'valibot'
import { packInstance, replySchema, requestSchema } from '../dist/bootstrap/messages.js'
import { RankTable } from '../dist/bootstrap/table.js'
import { Waits } from '../dist/bootstrap/waits.js'
import { name128, rank } from './fixtures.mjs'

const record = (number, change = {}) => ({
  instance: `prefill-${number}`,
  incarnation: name128('P', number),
  endpoint: `tcp://10.0.0.${number}:4000`,
  rank,
  backend: 'fake',
  ...change,
})

export class BootstrapWorld {
  name = 'bootstrap'
  #random
  #waits
  #table
  #askers

  constructor(random) {
    this.#random = random
    this.#table = new RankTable(name128('B'), () => {
      this.#waits.look()
    })
    this.#waits = new Waits(this.#table)
    this.#askers = [{}, {}, {}]
    for (const number of [1, 2]) this.#table.put(record(number), 600_000, 'register')
  }

  /** What can be asked of it. */
  get state() {
    return {
      latest: this.#table.read(undefined),
      known: [1, 2].map((number) => this.#table.read(`prefill-${number}`)),
    }
  }

  /** As `BootstrapServer` does with a request, and a client with an answer. */
  receive(message) {
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
          connection: this.#random.pick(this.#askers),
          answer: () => undefined,
        })
        return 'taken'
    }
  }

  turn() {}

  templates() {
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
      { v: 1, kind: 'read', instance: `prefill-${number}` },
      { v: 1, kind: 'read', since, waitMs: 60_000 },
      { v: 1, kind: 'instance', ...(found ? { found: packInstance(found) } : {}) },
      { v: 1, kind: 'refused', reason: 'full', text: 'no room' },
    ])
  }

  leftovers() {
    this.#waits.clear()
    this.#table.clear()
    return this.#table.read(undefined) === undefined ? '' : 'records'
  }
}
