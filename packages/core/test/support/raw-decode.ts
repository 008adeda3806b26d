/** A decode rank with the right token that says what a test makes it say. */
import { randomBytes } from 'node:crypto'
import { once, EventEmitter } from 'node:events'
import { silentLog, type Memory, type TransferEngine } from '@kvx/contract'
import { readInstance } from '../../src/bootstrap/index.ts'
import { ControlClient } from '../../src/control/index.ts'
import { packPlace } from '../../src/place/index.ts'
import {
  makeRank,
  packPages,
  parseMessage,
  protocolVersion,
  type Message,
} from '../../src/protocol/index.ts'
import { packShape } from '../../src/shape/index.ts'
import type { Loopback } from './loopback.ts'
import { memoryFor, smallCache, token, type Cache } from './pair.ts'

const hex = () => randomBytes(16).toString('hex')

export class RawDecode {
  readonly incarnation = hex()
  readonly generation = hex()
  readonly session = hex()
  readonly cache: Cache
  readonly memory: Memory & { view(offset: number, length: number): Uint8Array }
  /** Everything that prefill said, in order. */
  readonly heard: Message[] = []
  prefill = ''
  readonly #news = new EventEmitter()
  #client: ControlClient | undefined
  #engine: TransferEngine | undefined
  #region: Uint8Array = new Uint8Array()

  /** @param memory what it registers; as much as its cache takes, unless a test wants less */
  constructor(pages: number, memory?: RawDecode['memory']) {
    this.cache = smallCache(pages)
    this.memory = memory ?? memoryFor(this.cache)
  }

  /** Finds the prefill rank and connects to it; says nothing yet. */
  async connect(from: string, loopback: Pick<Loopback, 'backend'>): Promise<void> {
    const found = await readInstance({ bootstrap: from, token, timeoutMs: 10_000 })
    const [rank] = found.ranks
    if (rank === undefined) throw new Error('no rank is registered')
    this.prefill = rank.incarnation
    const context = { generation: this.generation, log: silentLog }
    this.#engine = await loopback.backend.open({}, context)
    this.#region = (await this.#engine.register(this.memory)).descriptor
    const up = once(this.#news, 'up')
    this.#client = ControlClient.connect({
      endpoint: rank.endpoint,
      token,
      log: silentLog,
      onUp: () => this.#news.emit('up'),
      onDown: () => undefined,
      onMessage: (frame) => {
        this.heard.push(parseMessage(frame))
        this.#news.emit('message')
      },
    })
    await up
  }

  /** Connects and says hello. */
  static async greeted(from: string, loopback: Loopback, pages = 39): Promise<RawDecode> {
    const raw = new RawDecode(pages)
    await raw.connect(from, loopback)
    raw.hello()
    await raw.hear('welcome')
    return raw
  }

  hello(change: Record<string, unknown> = {}): void {
    this.say('hello', {
      speaks: [protocolVersion, protocolVersion],
      session: this.session,
      instance: 'raw',
      rank: makeRank(this.cache.shape.layers),
      shape: packShape(this.cache.shape),
      place: packPlace(this.cache.place),
      epoch: 0,
      fences: 0,
      engine: {
        backend: this.#engine?.identity.backend ?? '',
        version: '1',
        address: this.#engine?.address ?? new Uint8Array(),
        regions: [this.#region],
      },
      ...change,
    })
  }

  reserve(ep: number, room: bigint, digest: Uint8Array, tokens: number, pages: number[]): void {
    this.say('reserve', {
      ep,
      room,
      index: 0,
      tokens,
      digest,
      prefix: 0,
      pages: packPages({ kv: Int32Array.from(pages) }),
      digests: false,
    })
  }

  /** A message with the envelope of this incarnation; whatever `fields` has wins. */
  say(k: string, fields: Record<string, unknown> = {}): void {
    const envelope = {
      v: protocolVersion,
      from: this.incarnation,
      to: this.prefill,
      gen: this.generation,
    }
    const sent = this.#client?.send({ ...envelope, k, ...fields })
    if (sent !== true) throw new Error('the connection is not up')
  }

  /** The next message of this kind (about this epoch) after `since`, past or future. */
  async hear(k: string, ep?: number, since = 0): Promise<Message & Record<string, unknown>> {
    const fits = (message: Message & { ep?: unknown }) =>
      message.k === k && (ep === undefined || message.ep === ep)
    for (;;) {
      const found = this.heard.slice(since).find(fits)
      if (found !== undefined) return found
      await once(this.#news, 'message', { signal: AbortSignal.timeout(20_000) })
    }
  }

  async close(): Promise<void> {
    this.#client?.close()
    await this.#engine?.close()
  }
}
