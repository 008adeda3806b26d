/**
 * One control connection. A stream in each direction keeps the order and repeats nothing; it may be slow,
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
import type { Books } from '../books/books.ts'
import type { Context } from '../machine/context.ts'
import type { AnyRank, Cast } from '../ranks/cast.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { fault } from '../shape/faults.ts'
import type { Cuts } from './cuts.ts'

/** What is done with a message that has arrived. */
export interface Hearing {
  atPrefill(rank: PrefillRank, wire: Wire, message: Message): void
  atDecode(rank: DecodeRank, wire: Wire, message: Message): void
}

/** The parts below it. */
export interface Ground {
  readonly context: Context
  readonly books: Books
  readonly cast: Cast
  readonly cuts: Cuts
  readonly hearing: Hearing
}

/** The end of a connection that has made it. */
export interface Client {
  readonly decode: DecodeRank
  readonly endpoint: string
  /** The connection that it uses now. */
  readonly wire: Wire | undefined
  readonly closed: boolean
  /** It has connected before. */
  readonly isAgain: boolean
  /** The connection has ended, though its client has not noticed yet. */
  onEnd(wire: Wire): void
  /** The client notices the loss. */
  onLost(wire: Wire): void
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
  readonly to: () => AnyRank
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
  readonly client: Client
  readonly prefill: PrefillRank
  /** Faults that what still arrives on it has met (shape/faults.ts). */
  mask: number
  readonly #ground: Ground
  readonly #context: Context
  /** A message of it has reached the prefill process. */
  #heard = false
  #serverOpen = true
  #broken = false
  readonly #up: Stream
  readonly #down: Stream
  /** What a repeating transport would send again. */
  readonly unsure: Unsure
  /** Decode has heard a welcome on it. */
  welcomed = false
  /** Stalled by a partition. */
  #held: Held[] = []

  constructor(ground: Ground, client: Client, prefill: PrefillRank) {
    this.#ground = ground
    this.#context = ground.context
    this.client = client
    this.prefill = prefill
    this.id = `w${this.#context.serial()}`
    const stream = (to: Stream['to'], deliver: Stream['deliver']): Stream => ({
      ...{ to, deliver, unsure: [], unread: 0, last: 0, until: Infinity },
      frame: { at: -1, messages: [] },
    })
    this.#up = stream(
      () => this.prefill,
      (message) => {
        if (!this.#serverOpen) return
        this.#heard = true
        ground.hearing.atPrefill(this.prefill, this, message)
      },
    )
    this.#down = stream(
      () => this.decode,
      // Also after the client has noticed the loss: what it had received waits in its queue.
      (message) => {
        if (!this.client.closed) ground.hearing.atDecode(this.decode, this, message)
      },
    )
    this.unsure = { by: prefill, up: this.#up.unsure, down: this.#down.unsure }
    this.mask = client.isAgain ? fault.reconnect : 0
    this.#context.log(() => `${client.decode.name} is connected to ${prefill.name} (${this.id})`)
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
    const { clock, shape } = this.#context
    if (stream.unread >= shape.queue && this.#isUnread(stream)) {
      this.#context.log(() => `${this.id} is cut: ${stream.to().name} does not read`)
      this.#ground.books.hit(stream.to().slot)
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
    return stream.to().frozen || this.#ground.cuts.isCut(this.decode.slot, this.prefill.slot)
  }

  /** The stream ends: `side` knows at once, the other side a while later. When a queue is full both know at once, and it is lost. */
  end(side: 'client' | 'server' | 'network' | 'full'): void {
    if (this.#broken) return
    this.#broken = true
    this.mask |= fault.reconnect
    const { clock, random } = this.#context
    this.client.onEnd(this)
    this.#context.log(
      () => `${this.id} of ${this.decode.name} and ${this.prefill.name} ends: ${side}`,
    )
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
          if (this.#heard) this.prefill.step({ type: 'disconnected', connection: this.id })
        }),
      )
    }
  }

  /** Sends again what the transport was unsure of, some time after this side's own first words. */
  repeat(unsure: Unsure | undefined): void {
    if (!unsure) return
    const { clock, random } = this.#context
    const later = (send: () => void) => clock.after(random.between(1, 120), send)
    for (const message of unsure.up) later(() => this.sendUp(message))
    // What a dead process had kept is gone with it.
    if (unsure.by !== this.prefill) return
    for (const message of unsure.down) later(() => this.sendDown(message))
  }

  #remember(list: Message[], message: Message): void {
    // What greets belongs to its connection.
    if (!this.#context.shape.repeats || !('ep' in message) || message.ep === undefined) return
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
    if (this.#context.clock.now > stream.until) return
    if (this.#held.length > 0 || this.#ground.cuts.isCut(this.decode.slot, this.prefill.slot)) {
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
    const { random } = this.#context
    const slowness = this.decode.slot.slowness * this.prefill.slot.slowness
    return (random.chance(0.08) ? random.between(20, 90) : random.between(1, 12)) * slowness
  }
}
