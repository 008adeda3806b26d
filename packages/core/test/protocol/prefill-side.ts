/** The prefill side alone: the test plays its decode ranks, its engine and its host. */
import { blockWidth, groupWidth, KvxError, type FenceKind } from '@kvx/contract'
import type { Aux, Deadlines, Limits } from '../../src/manager/types.ts'
import {
  createPrefill,
  protocolVersion,
  roomKey,
  stepPrefill,
  type Message,
  type MessageOf,
  type PrefillEffect,
  type PrefillEvent,
  type PrefillState,
  type Rank,
} from '../../src/protocol/index.ts'
import {
  deadlines,
  digest,
  int32,
  kv,
  limits,
  name128,
  onWire,
  overTheWire,
  pageTokens,
  rank,
  shortly,
  smallCache,
  type Cache,
} from './fixtures.ts'

export type Post = Extract<PrefillEffect, { do: 'post' }>

/** One decode process as the prefill side sees it. */
export interface Decoder {
  readonly incarnation: string
  session: string
  gen: string
  connection: string
  instance: string
}

export function decoder(number = 1, change: Partial<Decoder> = {}): Decoder {
  return {
    incarnation: name128('D', number),
    session: name128('S', number),
    gen: name128('G', number),
    connection: `c${String(number)}`,
    instance: `decode-${String(number)}`,
    ...change,
  }
}

export class PrefillSide {
  readonly state: PrefillState
  now = 1_000
  /** Effects since the last `take`. */
  effects: PrefillEffect[] = []
  readonly posts: Post[] = []

  constructor(
    change: {
      deadlines?: Partial<Deadlines>
      limits?: Partial<Limits>
      fence?: FenceKind
      staging?: PrefillState['self']['staging']
      cache?: Cache
      rank?: Rank
    } = {},
  ) {
    const cache = change.cache ?? smallCache()
    const self = {
      incarnation: name128('P'),
      instance: 'prefill-a',
      rank: change.rank ?? rank,
      backend: 'fake',
      version: '1',
      fence: change.fence ?? 'exit',
      staging: change.staging,
      ...cache,
      packed: onWire(cache),
      deadlines: { ...deadlines, ...change.deadlines },
      limits: { ...limits, ...change.limits },
    }
    this.state = createPrefill(self, name128('W'))
  }

  step(event: PrefillEvent): this {
    const effects = stepPrefill(this.state, event, this.now)
    for (const effect of effects) {
      if (effect.do === 'send') overTheWire(effect.message)
      if (effect.do === 'post') this.posts.push(effect)
    }
    this.effects.push(...effects)
    return this
  }

  /** A message of `from`, with its envelope; anything in `body` wins. */
  message(from: Decoder, body: Record<string, unknown>): this {
    const transfer = 'ep' in body ? { gen: from.gen } : {}
    const message = overTheWire({
      v: protocolVersion,
      from: from.incarnation,
      to: this.state.self.incarnation,
      ...transfer,
      ...body,
    })
    return this.step({ type: 'message', connection: from.connection, message })
  }

  hello(from: Decoder, change: Partial<MessageOf<'hello'>> = {}): this {
    return this.message(from, {
      k: 'hello',
      speaks: [protocolVersion, protocolVersion],
      gen: from.gen,
      session: from.session,
      instance: from.instance,
      rank,
      ...onWire(smallCache()),
      epoch: 0,
      fences: 0,
      engine: {
        backend: 'fake',
        version: '1',
        address: new Uint8Array(1),
        regions: [new Uint8Array(1)],
      },
      ...change,
    })
  }

  linkOpen(from: Decoder): this {
    return this.step({ type: 'link.open', peer: from.incarnation, generation: from.gen })
  }

  connect(from: Decoder): this {
    return this.hello(from).linkOpen(from)
  }

  /** Three pages, 5, 6 and 7, for twelve tokens; anything in `change` wins. `undefined` leaves a field out. */
  reserve(from: Decoder, ep: number, change: Record<string, unknown> = {}): this {
    const fields: Record<string, unknown> = {
      k: 'reserve',
      ep,
      room: 9n,
      index: 0,
      tokens: 12,
      digest: digest(),
      prefix: 0,
      pages: kv(5, 6, 7),
      digests: false,
      ...change,
    }
    return this.message(
      from,
      Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
    )
  }

  abort(from: Decoder, ep: number): this {
    return this.message(from, {
      k: 'abort',
      ep,
      code: 'ERR_KVX_ABORTED',
      text: 'decode does not want it',
    })
  }

  send(
    sender = 1,
    change: {
      room?: bigint
      index?: number
      tokens?: number
      digest?: Uint8Array
      isPublished?: boolean
      deadlines?: Partial<Deadlines>
    } = {},
  ): this {
    const { room = 9n, index = 0, tokens = 12 } = change
    return this.step({
      type: 'host.send',
      published: change.isPublished === true ? { room, index } : undefined,
      sender,
      key: roomKey(room, index),
      tokens,
      digest: change.digest ?? digest(),
      deadlines: { ...this.state.self.deadlines, ...change.deadlines },
    })
  }

  /** Whole pages, from page `start` of the prompt on. */
  write(
    start = 0,
    pages = int32(0, 1, 2),
    write = 1,
    layers?: readonly [number, number],
    sender = 1,
  ): this {
    const tokens = [start * pageTokens, (start + pages.length) * pageTokens] as const
    return this.writeParts({ tokens, pages: { kv: pages }, write, layers, sender })
  }

  writeParts({
    tokens,
    pages = {},
    state = {},
    layers,
    write = 1,
    sender = 1,
  }: {
    tokens?: readonly [number, number]
    pages?: Record<string, Int32Array>
    state?: Record<string, Int32Array>
    layers?: readonly [number, number] | undefined
    write?: number
    sender?: number
  }): this {
    return this.step({ type: 'host.write', sender, write, tokens, pages, state, layers })
  }

  finish(
    aux: Aux = { firstToken: 42 },
    state: Record<string, Int32Array> = { mamba: int32() },
    sender = 1,
  ): this {
    return this.step({ type: 'host.finish', sender, state, aux })
  }

  /** Decode says that these rooms wait for their turn there. */
  queuedAt(from: Decoder, ...rooms: bigint[]): this {
    return this.message(from, { k: 'queued', gen: from.gen, rooms: rooms.map((room) => [room, 0]) })
  }

  hostAbort(sender = 1): this {
    return this.step({ type: 'host.abort', sender, reason: 'prefill does not want it' })
  }

  done(piece = this.lastPiece()): this {
    return this.step({ type: 'piece.done', piece })
  }

  failed(piece = this.lastPiece()): this {
    return this.step({
      type: 'piece.failed',
      piece,
      error: new KvxError('ERR_KVX_TRANSFER_FAILED', 'the wire broke', { phase: 'transfer' }),
    })
  }

  settled(piece = this.lastPiece()): this {
    return this.step({ type: 'piece.settled', piece })
  }

  /** The write has ended and nothing of it can land any more. */
  landed(piece = this.lastPiece()): this {
    return this.done(piece).settled(piece)
  }

  tick(ms = 0): this {
    this.now += ms
    return this.step({ type: 'tick' })
  }

  /** Time passes while `alive` keep pinging. */
  pass(ms: number, ...alive: Decoder[]): this {
    const end = this.now + ms
    while (this.now < end) {
      const by = Math.min(this.state.self.deadlines.ping, end - this.now)
      this.now += by
      for (const peer of alive) this.message(peer, { k: 'ping', live: 0 })
      this.step({ type: 'tick' })
    }
    return this
  }

  /** What was done since the last call: messages, news for the host, and orders to the engine, each in a few words. */
  take(): {
    sent: string[]
    told: string[]
    engine: string[]
    messages: Message[]
    effects: PrefillEffect[]
  } {
    const { effects } = this
    this.effects = []
    const messages = effects.flatMap((effect) =>
      effect.do === 'send' ? [overTheWire(effect.message)] : [],
    )
    return {
      effects,
      messages,
      sent: messages.filter((message) => message.k !== 'pong').map(shortly),
      told: effects.flatMap(news),
      engine: effects.flatMap((e) =>
        ['post', 'cancel', 'gather', 'openLink', 'closeLink', 'digest'].includes(e.do)
          ? [e.do]
          : [],
      ),
    }
  }

  clear(): this {
    this.take()
    return this
  }

  /** Where an epoch is: its phase, with `, writing` while pieces may land, or `over`, or `unknown` above the watermark. */
  where(from: Decoder, ep: number): string {
    const peer = this.state.peers.get(from.incarnation)
    const transfer = peer?.transfers.get(ep)
    if (transfer) return transfer.unsettled > 0 ? `${transfer.phase}, unsettled` : transfer.phase
    return peer && ep <= peer.watermark ? 'over' : 'unknown'
  }

  sender(id = 1): string {
    const sender = this.state.senders.get(id)
    if (!sender) return 'gone'
    return sender.unsettled > 0 ? `${sender.phase}, unsettled` : sender.phase
  }

  /** Everything that must not outlive its request, as one line; empty when nothing is left. */
  left(): string {
    const { peers, rooms, ended, senders, pieces, bays } = this.state
    const counts: Record<string, number> = {
      rooms: rooms.size,
      ended: ended.size,
      senders: senders.size,
      pieces: pieces.size,
      bays: bays.taken.filter(Boolean).length,
    }
    for (const peer of peers.values()) {
      counts[`transfers of ${peer.instance}`] = peer.transfers.size
      counts[`queue of ${peer.instance}`] = peer.queue.length
      counts[`bytes of ${peer.instance}`] = peer.inFlight
    }
    return Object.entries(counts)
      .filter(([, count]) => count !== 0)
      .map(([what, count]) => `${what}: ${String(count)}`)
      .join(', ')
  }

  lastPiece(): number {
    return this.posts.at(-1)?.piece ?? 0
  }
}

/** By block of a plan, its pages and how many lanes each of them takes. */
export function blocksOf({
  plan,
}: Post): { source: number[]; destination: number[]; lanes: number }[] {
  const { blocks, groups } = plan
  return Array.from({ length: blocks.length / blockWidth }, (_, b) => {
    const [first = 0, end = 0, firstLane = 0, endLane = 0] = blocks.subarray(b * blockWidth)
    const pages = Array.from({ length: end - first }, (_, g) => {
      const [from = 0, to = 0, count = 0] = groups.subarray((first + g) * groupWidth)
      return Array.from({ length: count }, (_, i) => [from + i, to + i] as const)
    }).flat()
    return {
      source: pages.map(([from]) => from),
      destination: pages.map(([, to]) => to),
      lanes: endLane - firstLane,
    }
  })
}

function news(effect: PrefillEffect): string[] {
  switch (effect.do) {
    case 'sender.reserved':
      return [`reserved(${String(effect.prefixTokens)})`]
    case 'sender.posted':
      return [`posted(${String(effect.write)})`]
    case 'sender.rejected':
      return [`rejected(${effect.error.code.replace('ERR_KVX_', '')})`]
    case 'sender.finished':
      return ['finished']
    case 'sender.failed':
      return [`failed(${effect.error.code.replace('ERR_KVX_', '')})`]
    case 'sender.settled':
      return ['settled']
    default:
      return []
  }
}
