/**
 * Control connections. One stream in each direction keeps the order and repeats nothing; it may be slow,
 * stall while a partition lasts, or break.
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

interface Held {
  readonly run: () => void
  /** When the bytes arrived where a stop of the stream counts. */
  readonly until: () => number
}

export class Wire {
  readonly id: string
  readonly world: World
  readonly client: Client
  readonly prefill: PrefillRank
  readonly mask: number
  /** A message of it has reached the prefill process. */
  #heard = false
  #serverOpen = true
  #broken = false
  /** Moments of the last arrivals: nothing overtakes. */
  #lastUp = 0
  #lastDown = 0
  /** What arrives later is lost. */
  #upUntil = Infinity
  #downUntil = Infinity
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
    this.#unsure = { by: prefill, up: [], down: [] }
    this.mask = client.made > 1 ? fault.reconnect : 0
    world.wires.set(this.id, this)
    world.log(() => `${client.decode.name} is connected to ${prefill.name} (${this.id})`)
  }

  get decode(): DecodeRank {
    return this.client.decode
  }

  sendUp(message: Message): void {
    if (this.#broken) return
    this.#remember(this.#unsure.up, message)
    const { clock } = this.world
    this.#lastUp = Math.max(this.#lastUp, clock.now + this.#delay())
    clock.at(this.#lastUp, () =>
      this.#arrive(
        () => this.#upUntil,
        () => {
          this.prefill.act(() => {
            if (!this.#serverOpen) return
            this.#heard = true
            this.prefill.onMessage(this, message)
          })
        },
      ),
    )
  }

  sendDown(message: Message): void {
    if (this.#broken || !this.#serverOpen) return
    this.#remember(this.#unsure.down, message)
    const { clock } = this.world
    this.#lastDown = Math.max(this.#lastDown, clock.now + this.#delay())
    clock.at(this.#lastDown, () =>
      this.#arrive(
        () => this.#downUntil,
        () => {
          // Also after the client has noticed the loss: what it had received waits in its queue.
          this.decode.act(() => {
            if (!this.client.closed) this.decode.onMessage(this, message)
          })
        },
      ),
    )
  }

  /** The stream ends: `side` knows at once, the other side a while later. */
  end(side: 'client' | 'server' | 'network'): void {
    if (this.#broken) return
    this.#broken = true
    if (this.world.shape.repeats) this.decode.unsure.set(this.client.endpoint, this.#unsure)
    const { world } = this
    const { clock, random } = world
    world.wires.delete(this.id)
    world.log(() => `${this.id} of ${this.decode.name} and ${this.prefill.name} ends: ${side}`)
    const stalled = this.#held.length > 0
    const reach = () =>
      stalled ? clock.now - 1 : clock.now + (random.chance(0.5) ? 0 : random.between(5, 60))
    this.#upUntil = side === 'server' ? clock.now - 1 : reach()
    this.#downUntil = side === 'client' ? clock.now - 1 : reach()
    if (stalled) this.#held = []
    // A host that vanishes says nothing: the other side misses its heartbeat.
    const notice = () => random.between(0, random.chance(0.3) ? 400 : 60)
    if (side !== 'client') {
      clock.at(
        Math.max(
          this.#downUntil,
          clock.now + (side === 'server' ? random.between(0, 300) : notice()),
        ),
        () => this.decode.act(() => this.client.onLost(this)),
      )
    }
    if (side !== 'server') {
      clock.at(Math.max(this.#upUntil, clock.now + notice()), () =>
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
    for (const { run, until } of held) if (this.world.clock.now <= until()) run()
  }

  #arrive(until: () => number, run: () => void): void {
    if (this.world.clock.now > until()) return
    if (this.#held.length > 0 || this.world.isCut(this.decode.slot, this.prefill.slot)) {
      if (!this.#broken) this.#held.push({ run, until })
      return
    }
    run()
  }

  #delay(): number {
    const { random } = this.world
    const slowness = this.decode.slot.slowness * this.prefill.slot.slowness
    return (random.chance(0.08) ? random.between(20, 90) : random.between(1, 12)) * slowness
  }
}
