/** A prefill rank with the right token, and a bootstrap service of its own, that says what a test makes it say. */
import { randomBytes } from 'node:crypto'
import { EventEmitter, once } from 'node:events'
import { silentLog } from '@kvx/contract'
import { BootstrapServer, registerRank, type Registration } from '../../src/bootstrap/index.ts'
import { ControlServer, type Connection } from '../../src/control/index.ts'
import { packPlace } from '../../src/place/index.ts'
import { makeRank, parseMessage, protocolVersion, type Message } from '../../src/protocol/index.ts'
import { packShape } from '../../src/shape/index.ts'
import { smallCache, token } from './pair.ts'

const hex = () => randomBytes(16).toString('hex')

export class RawPrefill {
  readonly incarnation = hex()
  readonly cache = smallCache(32)
  readonly heard: Message[] = []
  readonly #writer = hex()
  readonly #news = new EventEmitter()
  readonly #bootstrap: BootstrapServer
  #control: ControlServer | undefined
  #registration: Registration | undefined
  #decode: { connection: Connection; incarnation: string; generation: string } | undefined

  private constructor(bootstrap: BootstrapServer) {
    this.#bootstrap = bootstrap
  }

  /** Where decode is to look for it. */
  get from(): string {
    return this.#bootstrap.address
  }

  /** Answers pings and aborts by itself, and nothing else. */
  static async open(): Promise<RawPrefill> {
    const where = { host: '127.0.0.1', port: 0, token, log: silentLog }
    const bootstrap = await BootstrapServer.open(where)
    const raw = new RawPrefill(bootstrap)
    raw.#control = await ControlServer.bind({
      ...where,
      onMessage: (connection, frame) => {
        raw.#onMessage(connection, parseMessage(frame))
      },
    })
    raw.#registration = await registerRank({
      bootstrap: bootstrap.address,
      token,
      record: {
        instance: 'raw',
        incarnation: raw.incarnation,
        endpoint: raw.#control.endpoint,
        rank: makeRank(raw.cache.shape.layers),
        backend: 'loopback',
      },
    })
    return raw
  }

  #onMessage(connection: Connection, message: Message): void {
    if (message.k === 'hello') {
      this.#decode = { connection, incarnation: message.from, generation: message.gen }
    }
    if (message.k === 'ping') this.say('pong', { live: 0 })
    if (message.k === 'abort') this.say('drained', { ep: message.ep })
    this.heard.push(message)
    this.#news.emit('message')
  }

  say(k: string, fields: Record<string, unknown> = {}): void {
    if (this.#decode === undefined) throw new Error('decode has not said hello')
    const { connection, incarnation, generation } = this.#decode
    const envelope = {
      v: protocolVersion,
      from: this.incarnation,
      to: incarnation,
      gen: generation,
    }
    connection.send({ ...envelope, k, ...fields })
  }

  welcome(change: Record<string, unknown> = {}): void {
    this.say('welcome', {
      writer: this.#writer,
      instance: 'raw',
      rank: makeRank(this.cache.shape.layers),
      shape: packShape(this.cache.shape),
      place: packPlace(this.cache.place),
      engine: { backend: 'loopback', version: '1' },
      limits: { parked: 64, auxBytes: 1_000 },
      ...change,
    })
  }

  /** The first message of this kind, past or future. */
  async hear(k: string): Promise<Message & Record<string, unknown>> {
    for (;;) {
      const found = this.heard.find((message) => message.k === k)
      if (found !== undefined) return found
      await once(this.#news, 'message', { signal: AbortSignal.timeout(20_000) })
    }
  }

  async close(): Promise<void> {
    await this.#registration?.close()
    await this.#control?.close()
    await this.#bootstrap.close()
  }
}
