/**
 * Control connections. One stream in each direction keeps the order and repeats nothing; it may be slow,
 * stall while a partition lasts, or break. What one side says in one turn travels together, as one frame.
 *
 * What a frozen process, or one behind a partition, does not read is queued by its peer, up to a bound. Beyond it
 * the connection is cut, and both ends know at once.
 *
 * A connection breaks for its two ends at different moments. What had reached the other side's buffers by
 * then is still read there, what had not is lost. So after a reconnect the sender says again what it cannot
 * know to have arrived, while the first copy still lies in a buffer of the old connection, and is read before
 * the second or after it.
 *
 * In some schedules the transport itself `repeats`, as every one does that keeps messages until they are
 * acknowledged: what it does not know to have arrived when a connection breaks it sends again on the next one
 * to the same address, where by then another process may listen. That is late, often a duplicate, and behind
 * what was said on the new connection first. Nothing else of a network of streams can duplicate.
 */
import type { Message } from '@kvx/core/protocol'
import type { DecodeRank } from './decode.ts'
import { fault } from './faults.ts'
import type { PrefillRank } from './prefill.ts'
import type { World } from './world.ts'

/** A decode rank's client of one endpoint: it connects again for as long as it is not closed. */
export class Client {
  readonly decode: DecodeRank
  readonly endpoint: string
  wire: Wire | undefined
  closed = false
  /** Connections made so far. */
  made = 0

  constructor(decode: DecodeRank, endpoint: string) {
    this.decode = decode
    this.endpoint = endpoint
    this.#attemptAfter(decode.world.random.between(2, 30))
  }

  send(message: Message): void {
    this.wire?.sendUp(message)
  }

  close(): void {
    this.closed = true
    const { wire } = this
    this.wire = undefined
    wire?.end('client')
  }

  /** The connection was lost; another is made. */
  onLost(wire: Wire): void {
    if (this.wire !== wire || this.closed) return
    this.wire = undefined
    this.decode.onLinkDown(this.endpoint)
    this.#attemptAfter(this.decode.world.random.between(10, 120))
  }

  #attemptAfter(ms: number): void {
    const { world } = this.decode
    this.decode.later(ms, () => {
      if (this.closed || this.wire) return
      const prefill = world.listening(this.endpoint)
      if (!prefill || prefill.frozen || world.isCut(this.decode.slot, prefill.slot)) {
        // Every failed attempt is told.
        if (world.random.chance(0.3)) this.decode.onLinkDown(this.endpoint)
        this.#attemptAfter(world.random.between(40, 160))
        return
      }
      this.made++
      this.wire = new Wire(world, this, prefill)
      this.decode.onLinkUp(this.endpoint)
      this.wire.repeat(this.decode.unsure.get(this.endpoint))
      this.decode.unsure.delete(this.endpoint)
    })
  }
}

/** What a repeating transport does not know to have arrived: the last messages of each direction. */
export interface Unsure {
  readonly by: PrefillRank
  readonly up: Message[]
  readonly down: Message[]
}

/** A frame that has not arrived. */
interface Held {
  readonly stream: Stream
  readonly messages: readonly Message[]
}

/** Of a frame; more go into further ones. */
const frameMessages = 4

/** One direction of a connection. */
interface Stream {
  readonly to: () => PrefillRank | DecodeRank
  readonly deliver: (message: Message) => void
  readonly unsure: Message[]
  /** Messages that have been sent and not been read. */
  unread: number
  /** The frame of the turn in which it was begun. */
  frame: { readonly at: number; readonly messages: Message[] }
  /** Moment of the last arrival: nothing overtakes. */
  last: number
  /** What arrives later is lost. */
  until: number
}

export class Wire {
  readonly id: string
  readonly world: World
  readonly client: Client
  readonly prefill: PrefillRank
  /** Faults that what still arrives on it has met (faults.ts). */
  mask: number
  /** A message of it has reached the prefill process. */
  #heard = false
  #serverOpen = true
  #broken = false
  readonly #up: Stream
  readonly #down: Stream
  readonly #unsure: Unsure
  /** Decode has heard a welcome on it. */
  welcomed = false
  /** Stalled by a partition. */
  #held: Held[] = []

  constructor(world: World, client: Client, prefill: PrefillRank) {
    this.world = world
    this.client = client
    this.prefill = prefill
    this.id = `w${world.serial()}`
    const stream = (to: Stream['to'], deliver: Stream['deliver']): Stream => ({
      ...{ to, deliver, unsure: [], unread: 0, last: 0, until: Infinity },
      frame: { at: -1, messages: [] },
    })
    this.#up = stream(
      () => this.prefill,
      (message) => {
        if (!this.#serverOpen) return
        this.#heard = true
        this.prefill.onMessage(this, message)
      },
    )
    this.#down = stream(
      () => this.decode,
      // Also after the client has noticed the loss: what it had received waits in its queue.
      (message) => {
        if (!this.client.closed) this.decode.onMessage(this, message)
      },
    )
    this.#unsure = { by: prefill, up: this.#up.unsure, down: this.#down.unsure }
    this.mask = client.made > 1 ? fault.reconnect : 0
    world.wires.set(this.id, this)
    world.log(() => `${client.decode.name} is connected to ${prefill.name} (${this.id})`)
  }

  get decode(): DecodeRank {
    return this.client.decode
  }

  sendUp(message: Message): void {
    if (!this.#broken) this.#send(this.#up, message)
  }

  sendDown(message: Message): void {
    if (!this.#broken && this.#serverOpen) this.#send(this.#down, message)
  }

  #send(stream: Stream, message: Message): void {
    this.#remember(stream.unsure, message)
    const { clock, shape } = this.world
    if (stream.unread >= shape.queue && this.#isUnread(stream)) {
      this.world.log(() => `${this.id} is cut: ${stream.to().name} does not read`)
      this.world.hit(stream.to().slot)
      this.end('full')
      return
    }
    stream.unread++
    const { frame } = stream
    if (frame.at === clock.now && frame.messages.length < frameMessages) {
      frame.messages.push(message)
      return
    }
    const messages = [message]
    stream.frame = { at: clock.now, messages }
    stream.last = Math.max(stream.last, clock.now + this.#delay())
    clock.at(stream.last, () => this.#arrive(stream, messages))
  }

  #isUnread(stream: Stream): boolean {
    return stream.to().frozen || this.world.isCut(this.decode.slot, this.prefill.slot)
  }

  /** The stream ends: `side` knows at once, the other side a while later. When a queue is full both know at once, and it is lost. */
  end(side: 'client' | 'server' | 'network' | 'full'): void {
    if (this.#broken) return
    this.#broken = true
    this.mask |= fault.reconnect
    if (this.world.shape.repeats) this.decode.unsure.set(this.client.endpoint, this.#unsure)
    const { world } = this
    const { clock, random } = world
    world.wires.delete(this.id)
    world.log(() => `${this.id} of ${this.decode.name} and ${this.prefill.name} ends: ${side}`)
    const stalled = this.#held.length > 0
    const reach = () =>
      stalled || side === 'full'
        ? clock.now - 1
        : clock.now + (random.chance(0.5) ? 0 : random.between(5, 60))
    this.#up.until = side === 'server' ? clock.now - 1 : reach()
    this.#down.until = side === 'client' ? clock.now - 1 : reach()
    if (stalled) this.#held = []
    // A host that vanishes says nothing: the other side misses its heartbeat.
    const notice = () => (side === 'full' ? 0 : random.between(0, random.chance(0.3) ? 400 : 60))
    if (side !== 'client') {
      clock.at(
        Math.max(
          this.#down.until,
          clock.now + (side === 'server' ? random.between(0, 300) : notice()),
        ),
        () => this.decode.act(() => this.client.onLost(this)),
      )
    }
    if (side !== 'server') {
      clock.at(Math.max(this.#up.until, clock.now + notice()), () =>
        this.prefill.act(() => {
          this.#serverOpen = false
          if (this.#heard) this.prefill.onDisconnected(this.id)
        }),
      )
    }
  }

  /** Sends again what the transport was unsure of, some time after this side's own first words. */
  repeat(unsure: Unsure | undefined): void {
    if (!unsure) return
    const { clock, random } = this.world
    const later = (send: () => void) => clock.after(random.between(1, 120), send)
    for (const message of unsure.up) later(() => this.sendUp(message))
    // What a dead process had kept is gone with it.
    if (unsure.by !== this.prefill) return
    for (const message of unsure.down) later(() => this.sendDown(message))
  }

  #remember(list: Message[], message: Message): void {
    // What greets belongs to its connection.
    if (!this.world.shape.repeats || !('ep' in message) || message.ep === undefined) return
    list.push(message)
    if (list.length > 4) list.shift()
  }

  /** The partition is over: what was held arrives, in order. */
  release(): void {
    const held = this.#held
    this.#held = []
    for (const { stream, messages } of held) this.#arrive(stream, messages)
  }

  #arrive(stream: Stream, messages: readonly Message[]): void {
    if (this.world.clock.now > stream.until) return
    if (this.#held.length > 0 || this.world.isCut(this.decode.slot, this.prefill.slot)) {
      if (!this.#broken) this.#held.push({ stream, messages })
      return
    }
    for (const message of messages)
      stream.to().act(() => {
        stream.unread--
        stream.deliver(message)
      })
  }

  #delay(): number {
    const { random } = this.world
    const slowness = this.decode.slot.slowness * this.prefill.slot.slowness
    return (random.chance(0.08) ? random.between(20, 90) : random.between(1, 12)) * slowness
  }
}
