/** A prefill side with transfers in every phase, and what strangers and decode ranks may say to it. */
import { createPrefill, protocolVersion, roomKey, stepPrefill } from '../dist/protocol/index.js'
import {
  cache,
  deadlines,
  digest,
  engineOf,
  limits,
  longTime,
  name128,
  packedCache,
  pageLists,
  pageTokens,
  rank,
} from './fixtures.mjs'

const tokens = 3 * pageTokens

/** Decode ranks 1 and 2 are connected; 3 may come; the connection `s0` has said nothing yet. */
const decoders = [1, 2, 3].map((number) => ({
  incarnation: name128('D', number),
  session: name128('S', number),
  gen: name128('G', number),
  connection: `c${number}`,
  instance: `decode-${number}`,
}))

export class PrefillWorld {
  name = 'prefill'
  state
  #random
  #now = 1_000
  #effects = []
  /** Writes that have not settled. */
  #writes = new Set()
  #opening = []
  /** For whom each connection has said hello, and with what. */
  #owners = new Map()
  #peers = new Map()
  #room = 100n
  #sender = 0
  #write = 0
  #epochs = new Map(decoders.map(({ incarnation }) => [incarnation, 0]))

  constructor(random) {
    this.#random = random
    const fence = random.pick(['exit', 'engine'])
    this.state = createPrefill(
      {
        incarnation: name128('P'),
        instance: 'prefill',
        rank,
        backend: 'fake',
        version: '1',
        fence,
        ...cache,
        packed: packedCache(),
        deadlines,
        limits,
      },
      name128('W'),
    )
    for (const decoder of decoders.slice(0, 2)) {
      this.#say(decoder, this.#hello(decoder))
      this.#step({ type: 'link.open', peer: decoder.incarnation, generation: decoder.gen })
    }
    for (let i = 0; i < 3; i++) this.turn()
  }

  /** Where a message comes from: the connection of whom it names, another's, or one that has not said hello. */
  from(message) {
    const own = decoders.find(({ incarnation }) => incarnation === message.from)
    if (own && this.#random.chance(0.6)) return own.connection
    return this.#random.pick(['s0', 's1', 'c1', 'c2', 'c3'])
  }

  /** Whether a message must change nothing because of who sends it: judged by this world's own books. */
  isForeign(connection, message) {
    const { state } = this
    const speaksFor = this.#owners.get(connection)
    if (message.to !== state.self.incarnation) return true
    if (message.k === 'hello') {
      // Who was lost and is forgotten leaves its connection free.
      if (state.peers.has(speaksFor) && speaksFor !== message.from) return true
      return (
        state.peers.has(message.from) && this.#peers.get(message.from).session !== message.session
      )
    }
    if (speaksFor !== message.from) return true
    return message.gen !== undefined && message.gen !== this.#peers.get(message.from).gen
  }

  step(connection, message) {
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

  #step(event) {
    const effects = stepPrefill(this.state, event, this.#now)
    for (const effect of effects) {
      if (effect.do === 'openLink') this.#opening.push(effect)
      else if (effect.do === 'post') this.#writes.add(effect.piece)
      else if (effect.do === 'digest' || effect.do === 'recycle') this.#effects.push(effect)
    }
    return effects
  }

  #envelope(decoder) {
    return { v: protocolVersion, from: decoder.incarnation, to: this.state.self.incarnation }
  }

  #hello(decoder) {
    return {
      ...this.#envelope(decoder),
      k: 'hello',
      speaks: [protocolVersion, protocolVersion],
      gen: decoder.gen,
      session: decoder.session,
      instance: decoder.instance,
      rank,
      ...packedCache(),
      epoch: this.#epochs.get(decoder.incarnation),
      fences: 0,
      engine: engineOf(),
    }
  }

  #say(decoder, body) {
    return this.step(decoder.connection, { ...this.#envelope(decoder), gen: decoder.gen, ...body })
  }

  #reserve(decoder, room, pages = { pages: pageLists() }) {
    const ep = (this.#epochs.get(decoder.incarnation) ?? 0) + 1
    return {
      k: 'reserve',
      ep,
      room,
      index: 0,
      tokens,
      digest: digest(),
      prefix: 0,
      digests: this.#random.chance(0.2),
      ...pages,
    }
  }

  #reserves(decoder, room, pages) {
    const reserve = this.#reserve(decoder, room, pages)
    this.#epochs.set(decoder.incarnation, reserve.ep)
    this.#say(decoder, reserve)
    return reserve.ep
  }

  #send(room) {
    const sender = ++this.#sender
    this.#step({
      type: 'host.send',
      sender,
      key: roomKey(room, 0),
      tokens,
      digest: digest(),
      deadlines,
    })
    return sender
  }

  #writeAll(sender) {
    const pages = { kv: Int32Array.of(0, 1, 2) }
    const write = ++this.#write
    this.#step({ type: 'host.write', sender, write, tokens: [0, tokens], pages, state: {} })
  }

  #finish(sender) {
    const slots = this.state.senders.get(sender)?.targets[0]?.pages?.mamba?.length ?? 0
    const state = { mamba: Int32Array.from({ length: slots }, (_, slot) => slot) }
    this.#step({ type: 'host.finish', sender, state, aux: { firstToken: 1 } })
  }

  /** Time passes: engines answer, hosts go on, and there is something in every phase again. */
  turn() {
    const random = this.#random
    this.#now += random.below(1_000)
    for (const { peer, generation } of this.#opening.splice(0)) {
      if (random.chance(0.8)) this.#step({ type: 'link.open', peer, generation })
      else this.#opening.push({ peer, generation })
    }
    for (const effect of this.#effects.splice(0)) this.#answer(effect)
    for (const piece of [...this.#writes]) if (random.chance(0.6)) this.#settle(piece)
    for (const decoder of decoders.slice(0, 2)) {
      this.step(decoder.connection, { ...this.#envelope(decoder), k: 'ping', live: 0 })
      // A leg that waits, a reserve that waits, one that moves, one that waits for its pages, one that is complete, and
      // one that has failed while bytes are on their way.
      if (this.state.senders.size < 16) {
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
      const live = this.state.peers.get(decoder.incarnation)?.transfers ?? new Map()
      for (const { epoch, phase } of live.values()) {
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

  #answer(effect) {
    if (effect.do === 'recycle') {
      // An engine that is closed settles what was written with it.
      for (const piece of [...this.#writes]) this.#settle(piece)
      this.#step({ type: 'engine.recycled', generation: name128('W', this.#random.below(1_000)) })
    } else {
      const { sender, epoch, peer } = effect
      const digests = { kv: new Uint8Array(16), mamba: new Uint8Array(16) }
      this.#step({ type: 'digests', sender, epoch, peer, digests })
    }
  }

  #settle(piece) {
    this.#writes.delete(piece)
    this.#step({ type: 'piece.done', piece })
    this.#step({ type: 'piece.settled', piece })
  }

  /** Messages that would be in order just now, from each decode rank. */
  templates() {
    const made = []
    for (const decoder of decoders) {
      const hello = this.#hello(decoder)
      const about = { ...this.#envelope(decoder), gen: decoder.gen }
      const variant = this.#random.pick([
        {},
        { gen: name128('G', this.#random.below(100)) },
        { session: name128('S', 9) },
      ])
      made.push({ ...hello, ...variant })
      const peer = this.state.peers.get(decoder.incarnation)
      const epochs = [...(peer?.transfers.values() ?? [])]
      made.push({ ...this.#envelope(decoder), k: 'ping', live: 1 })
      for (const room of this.state.rooms.values()) {
        if (!room.sender || !this.#random.chance(0.3)) continue
        const number = BigInt(room.key.slice(0, room.key.indexOf('/')))
        made.push({ ...about, ...this.#reserve(decoder, number) })
        made.push({ ...about, k: 'queued', rooms: [[number, 0]] })
      }
      made.push({ ...about, ...this.#reserve(decoder, this.#room + 50n) })
      made.push({
        ...about,
        ...this.#reserve(decoder, this.#room + 51n, {
          pages: pageLists(1),
        }),
      })
      for (const { epoch, pages } of epochs) {
        made.push({ ...about, k: 'query', ep: epoch }, { ...about, k: 'ack', ep: epoch })
        if (this.#random.chance(0.3))
          made.push({ ...about, k: 'abort', ep: epoch, code: 'ERR_KVX_ABORTED', text: 'no' })
        if (!pages) made.push({ ...about, k: 'pages', ep: epoch, pages: pageLists() })
      }
    }
    // Other way round: what only prefill may say.
    const [decoder] = decoders
    const about = { ...this.#envelope(decoder), gen: decoder.gen, ep: 1 }
    made.push(
      { ...about, k: 'drained' },
      { ...about, k: 'ready' },
      { ...about, k: 'accept', state: 'paired' },
    )
    return made
  }

  /** After all has settled and every deadline has passed, nothing may be left. */
  leftovers() {
    for (let i = 0; i < 8; i++) {
      for (const { peer, generation } of this.#opening.splice(0))
        this.#step({ type: 'link.open', peer, generation })
      for (const effect of this.#effects.splice(0)) this.#answer(effect)
      for (const piece of [...this.#writes]) this.#settle(piece)
      this.#now += longTime
      this.#step({ type: 'tick' })
    }
    const { peers, rooms, ended, senders, pieces } = this.state
    return sizes({ peers, rooms, ended, senders, pieces })
  }
}

export function sizes(tables) {
  return Object.entries(tables)
    .filter(([, table]) => table.size > 0)
    .map(([name, table]) => `${name}: ${table.size}`)
    .join(', ')
}
