/** A prefill side with transfers in every phase, and what strangers and decode ranks may say to it. */
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
} from '@kvx/core/protocol'
import type { FrameRandom } from '../random.ts'
import {
  bays,
  cache,
  deadlines,
  digest,
  engineOf,
  limits,
  longTime,
  name128,
  packedCache,
  pageLists,
  rank,
  stagingOf,
  tokens,
} from './fixtures.ts'
import { sizes, type ProtocolWorld, type Said, type Template } from './world.ts'

/** Decode ranks 1 and 2 are connected; 3 may come; the connection `s0` has said nothing yet. */
const decoderOf = (number: number) => ({
  incarnation: name128('D', number),
  session: name128('S', number),
  gen: name128('G', number),
  connection: `c${String(number)}`,
  instance: `decode-${String(number)}`,
})
type Decoder = ReturnType<typeof decoderOf>
const greeted = [decoderOf(1), decoderOf(2)]
const decoders = [...greeted, decoderOf(3)]

type Of<K extends PrefillEffect['do']> = Extract<PrefillEffect, { do: K }>

export class PrefillWorld implements ProtocolWorld {
  readonly name = 'prefill'
  readonly state: PrefillState
  readonly #random: FrameRandom
  #now = 1_000
  #effects: (Of<'digest'> | Of<'recycle'>)[] = []
  /** Writes that have not settled. */
  readonly #writes = new Set<number>()
  /** Copies into staging memory that have not ended. */
  readonly #gathers = new Set<number>()
  #opening: Pick<Of<'openLink'>, 'peer' | 'generation'>[] = []
  /** For whom each connection has said hello, and with what. */
  readonly #owners = new Map<string, string>()
  readonly #peers = new Map<string, Pick<MessageOf<'hello'>, 'session' | 'gen'>>()
  #room = 100n
  #sender = 0
  #write = 0
  readonly #epochs = new Map(decoders.map(({ incarnation }) => [incarnation, 0]))

  constructor(random: FrameRandom) {
    this.#random = random
    const fence = random.one(['exit', 'engine'] as const)
    this.state = createPrefill(
      {
        incarnation: name128('P'),
        instance: 'prefill',
        rank,
        backend: 'fake',
        version: '1',
        fence,
        staging: { ...bays, shortRun: 1_000, fewestRuns: 1, region: 1 },
        ...cache,
        packed: packedCache(),
        deadlines,
        limits,
      },
      name128('W'),
    )
    for (const decoder of greeted) {
      this.step(decoder.connection, this.#hello(decoder))
      this.#step({ type: 'link.open', peer: decoder.incarnation, generation: decoder.gen })
    }
    for (let i = 0; i < 3; i++) this.turn()
  }

  /** The connection of whom it names, another's, or one that has not said hello. */
  from(message: Message): string {
    const own = decoders.find(({ incarnation }) => incarnation === message.from)
    if (own && this.#random.chance(0.6)) return own.connection
    return this.#random.one(['s0', 's1', 'c1', 'c2', 'c3'])
  }

  isForeign(connection: string, message: Message): boolean {
    const { state } = this
    const speaksFor = this.#owners.get(connection)
    if (message.to !== state.self.incarnation) return true
    if (message.k === 'hello') {
      // Who was lost and is forgotten leaves its connection free.
      if (speaksFor !== undefined && state.peers.has(speaksFor) && speaksFor !== message.from)
        return true
      return (
        state.peers.has(message.from) && this.#peers.get(message.from)!.session !== message.session
      )
    }
    if (speaksFor !== message.from) return true
    return 'gen' in message && message.gen !== this.#peers.get(message.from)!.gen
  }

  step(connection: string, message: Message): readonly PrefillEffect[] {
    const effects = this.#step({ type: 'message', connection, message })
    const isRefused = effects.some(
      (effect) => effect.do === 'send' && effect.message.k === 'refuse',
    )
    if (message.k === 'hello' && !isRefused) {
      for (const [other, owner] of this.#owners) {
        if (owner === message.from) this.#owners.delete(other)
      }
      this.#owners.set(connection, message.from)
      this.#peers.set(message.from, { session: message.session, gen: message.gen })
    }
    return effects
  }

  #step(event: PrefillEvent): readonly PrefillEffect[] {
    const effects = stepPrefill(this.state, event, this.#now)
    for (const effect of effects) {
      if (effect.do === 'openLink') this.#opening.push(effect)
      else if (effect.do === 'post') this.#writes.add(effect.piece)
      else if (effect.do === 'gather') this.#gathers.add(effect.piece)
      else if (effect.do === 'digest' || effect.do === 'recycle') this.#effects.push(effect)
    }
    return effects
  }

  #envelope(decoder: Decoder) {
    const { incarnation } = this.state.self
    return { v: protocolVersion, from: decoder.incarnation, to: incarnation } as const
  }

  #hello(decoder: Decoder): MessageOf<'hello'> {
    return {
      ...this.#envelope(decoder),
      k: 'hello',
      speaks: [protocolVersion, protocolVersion],
      gen: decoder.gen,
      session: decoder.session,
      instance: decoder.instance,
      rank,
      ...packedCache(),
      epoch: this.#epochs.get(decoder.incarnation) ?? 0,
      fences: 0,
      engine: engineOf(),
      staging: stagingOf(),
    }
  }

  #says(decoder: Decoder, body: Said): Message {
    return { ...this.#envelope(decoder), gen: decoder.gen, ...body }
  }

  #say(decoder: Decoder, body: Said): void {
    this.step(decoder.connection, this.#says(decoder, body))
  }

  #reserve(
    decoder: Decoder,
    room: bigint,
    pages: Pick<MessageOf<'reserve'>, 'pages'> = { pages: pageLists() },
  ) {
    return {
      k: 'reserve',
      ep: (this.#epochs.get(decoder.incarnation) ?? 0) + 1,
      room,
      index: 0,
      tokens,
      digest: digest(),
      prefix: 0,
      digests: this.#random.chance(0.2),
      ...pages,
    } as const
  }

  #reserves(decoder: Decoder, room: bigint, pages?: Pick<MessageOf<'reserve'>, 'pages'>): number {
    const reserve = this.#reserve(decoder, room, pages)
    this.#epochs.set(decoder.incarnation, reserve.ep)
    this.#say(decoder, reserve)
    return reserve.ep
  }

  #send(room: bigint): number {
    const sender = ++this.#sender
    this.#step({
      type: 'host.send',
      sender,
      key: roomKey(room, 0),
      tokens,
      digest: digest(),
      published: undefined,
      deadlines,
    })
    return sender
  }

  #writeAll(sender: number): void {
    this.#step({
      type: 'host.write',
      sender,
      write: ++this.#write,
      tokens: [0, tokens],
      pages: { kv: Int32Array.of(0, 1, 2) },
      state: {},
      layers: undefined,
    })
  }

  #finish(sender: number): void {
    const slots = this.state.senders.get(sender)?.targets[0]?.pages?.mamba?.length ?? 0
    const state = { mamba: Int32Array.from({ length: slots }, (_, slot) => slot) }
    this.#step({ type: 'host.finish', sender, state, aux: { firstToken: 1 } })
  }

  turn(): void {
    const random = this.#random
    this.#now += random.below(1_000)
    for (const opening of this.#opening.splice(0)) {
      if (random.chance(0.8)) this.#open(opening)
      else this.#opening.push(opening)
    }
    for (const effect of this.#effects.splice(0)) this.#answer(effect)
    for (const piece of [...this.#writes]) if (random.chance(0.6)) this.#settle(piece)
    for (const piece of [...this.#gathers]) if (random.chance(0.6)) this.#gathered(piece)
    for (const decoder of greeted) {
      this.step(decoder.connection, { ...this.#envelope(decoder), k: 'ping', live: 0 })
      if (this.state.senders.size < 16) this.#begin(decoder)
      const live = this.state.peers.get(decoder.incarnation)?.transfers.values() ?? []
      for (const { epoch, phase, loads } of live) {
        for (const [load, { status }] of loads) {
          const offset = random.chance(0.2) ? {} : { offset: 0 }
          if (status === 'asking' && random.chance(0.5))
            this.#say(decoder, { k: 'bay', ep: epoch, load, ...offset })
          else if (status === 'staged' && random.chance(0.5))
            this.#say(decoder, { k: 'scattered', ep: epoch, load })
        }
        if (phase === 'complete' && random.chance(0.5)) this.#say(decoder, { k: 'ack', ep: epoch })
        else if (random.chance(0.2))
          this.#say(decoder, { k: 'abort', ep: epoch, code: 'ERR_KVX_ABORTED', text: '' })
      }
    }
    for (const sender of this.state.senders.values()) {
      if (sender.phase === 'waiting' && random.chance(0.3))
        this.#step({ type: 'host.abort', sender: sender.id, reason: 'enough' })
      else if (sender.phase === 'paired' && random.chance(0.3)) this.#finish(sender.id)
    }
    this.#step({ type: 'tick' })
  }

  /**
   * A leg that waits, a reserve that waits, one that moves, one that waits for its pages, one that is complete, and
   * one that has failed while bytes are on their way.
   */
  #begin(decoder: Decoder): void {
    this.#send(++this.#room)
    this.#reserves(decoder, ++this.#room)
    const moving = ++this.#room
    this.#reserves(decoder, moving)
    this.#writeAll(this.#send(moving))
    const late = ++this.#room
    this.#reserves(decoder, late, {})
    this.#writeAll(this.#send(late))
    const complete = ++this.#room
    this.#reserves(decoder, complete)
    const sender = this.#send(complete)
    this.#writeAll(sender)
    this.#finish(sender)
    for (const piece of [...this.#writes].slice(-1)) this.#settle(piece)
    const failed = ++this.#room
    const ep = this.#reserves(decoder, failed)
    this.#writeAll(this.#send(failed))
    this.#say(decoder, { k: 'abort', ep, code: 'ERR_KVX_ABORTED', text: 'enough' })
  }

  #open({ peer, generation }: Pick<Of<'openLink'>, 'peer' | 'generation'>): void {
    this.#step({ type: 'link.open', peer, generation })
  }

  #answer(effect: Of<'digest'> | Of<'recycle'>): void {
    if (effect.do === 'recycle') {
      // An engine that is closed settles what was written with it.
      for (const piece of [...this.#gathers]) this.#gathered(piece)
      for (const piece of [...this.#writes]) this.#settle(piece)
      this.#step({ type: 'engine.recycled', generation: name128('W', this.#random.below(1_000)) })
    } else {
      const { sender, epoch, peer } = effect
      const digests = { kv: new Uint8Array(16), mamba: new Uint8Array(16) }
      this.#step({ type: 'digests', sender, epoch, peer, digests })
    }
  }

  #gathered(piece: number): void {
    this.#gathers.delete(piece)
    this.#step({ type: 'load.gathered', piece })
  }

  #settle(piece: number): void {
    this.#writes.delete(piece)
    this.#step({ type: 'piece.done', piece })
    this.#step({ type: 'piece.settled', piece })
  }

  templates(): readonly Template[] {
    const made: Message[] = []
    for (const decoder of decoders) {
      const variant = this.#random.one([
        {},
        { gen: name128('G', this.#random.below(100)) },
        { session: name128('S', 9) },
      ])
      made.push({ ...this.#hello(decoder), ...variant })
      made.push({ ...this.#envelope(decoder), k: 'ping', live: 1 })
      const says = (body: Said) => made.push(this.#says(decoder, body))
      for (const room of this.state.rooms.values()) {
        if (!room.sender || !this.#random.chance(0.3)) continue
        const number = BigInt(room.key.slice(0, room.key.indexOf('/')))
        says(this.#reserve(decoder, number))
        says({ k: 'queued', rooms: [[number, 0]] })
      }
      says(this.#reserve(decoder, this.#room + 50n))
      says(this.#reserve(decoder, this.#room + 51n, { pages: pageLists(1) }))
      const live = this.state.peers.get(decoder.incarnation)?.transfers.values() ?? []
      for (const { epoch: ep, pages } of live) {
        says({ k: 'bay', ep, load: 1, offset: 0 })
        says({ k: 'bay', ep, load: 1 })
        says({ k: 'scattered', ep, load: 1 })
        says({ k: 'query', ep })
        says({ k: 'ack', ep })
        if (this.#random.chance(0.3)) says({ k: 'abort', ep, code: 'ERR_KVX_ABORTED', text: 'no' })
        if (!pages) says({ k: 'pages', ep, pages: pageLists() })
      }
    }
    // Other way round: what only prefill may say.
    for (const body of [
      { k: 'drained', ep: 1 },
      { k: 'ready', ep: 1 },
      { k: 'accept', ep: 1, state: 'paired' },
    ] as const)
      made.push(this.#says(decoders[0]!, body))
    return made
  }

  leftovers(): string {
    for (let i = 0; i < 8; i++) {
      for (const opening of this.#opening.splice(0)) this.#open(opening)
      for (const effect of this.#effects.splice(0)) this.#answer(effect)
      for (const piece of [...this.#gathers]) this.#gathered(piece)
      for (const piece of [...this.#writes]) this.#settle(piece)
      this.#now += longTime
      this.#step({ type: 'tick' })
    }
    const { peers, rooms, ended, senders, pieces } = this.state
    const taken = { size: this.state.bays.taken.filter(Boolean).length }
    return sizes({ peers, rooms, ended, senders, pieces, bays: taken })
  }
}
