import { afterEach } from 'vitest'
import { silentLog, type KvxError } from '@kvx/contract'
import { ControlClient, type ControlClientOptions } from '../src/control/client.ts'
import { ControlServer, type Connection, type ControlServerOptions } from '../src/control/server.ts'
import { type Message } from '../src/control/codec.ts'

const cleanups: (() => unknown)[] = []

/** Runs after the test, last registered first. */
export function cleanup(action: () => unknown): void {
  cleanups.push(action)
}

afterEach(async () => {
  for (const action of cleanups.splice(0).reverse()) await action()
})

/** What happened, in order, and a way to wait for more. */
export class Journal<T> {
  readonly entries: T[] = []
  #waiting: (() => void)[] = []

  readonly add = (entry: T): void => {
    this.entries.push(entry)
    for (const wake of this.#waiting.splice(0)) wake()
  }

  /** The first entry, past or future, that fits; the test's own timeout bounds the wait. */
  async find(fits: (entry: T) => boolean = () => true): Promise<T> {
    for (;;) {
      const found = this.entries.find(fits)
      if (found !== undefined) return found
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
  }

  async count(n: number): Promise<T[]> {
    while (this.entries.length < n)
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    return this.entries
  }
}

export const token = 'a token of this test'

export async function openServer(options: Partial<ControlServerOptions> = {}) {
  const messages = new Journal<{ connection: Connection; message: Message }>()
  const malformed = new Journal<KvxError>()
  const closed = new Journal<Connection>()
  const server = await ControlServer.bind({
    host: '127.0.0.1',
    port: 0,
    token,
    log: silentLog,
    onMessage: (connection, message) => {
      messages.add({ connection, message })
    },
    onMalformed: (_, error) => {
      malformed.add(error)
    },
    onClose: closed.add,
    ...options,
  })
  cleanup(() => server.close())
  return { server, messages, malformed, closed }
}

export function openClient(endpoint: string, options: Partial<ControlClientOptions> = {}) {
  const messages = new Journal<Message>()
  const states = new Journal<'up' | KvxError>()
  const client = ControlClient.connect({
    endpoint,
    token,
    log: silentLog,
    onMessage: messages.add,
    onUp: () => {
      states.add('up')
    },
    onDown: states.add,
    ...options,
  })
  cleanup(() => {
    client.close()
  })
  const { entries } = states
  return {
    ...{ client, messages, states },
    up: () => states.find((state) => state === 'up'),
    /** The first failure after it was up: an attempt before that may have failed as well. */
    lost: () =>
      states.find((state) => state !== 'up' && entries.indexOf(state) > entries.indexOf('up')),
  }
}
