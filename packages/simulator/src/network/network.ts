/** Who is connected to whom: the connections of all processes, and the partitions between them. */
import type { Message } from '@kvx/core/protocol'
import type { Slot } from '../machine/process.ts'
import type { AnyRank } from '../ranks/cast.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { Wire, type Client, type Ground, type Unsure } from './wire.ts'

/** A decode process's end of the network. */
interface Sockets {
  readonly clients: Map<string, Dialler>
  /** By endpoint: what a repeating transport sends again on the next connection. */
  readonly unsure: Map<string, Unsure>
}

/** All connections. */
export class Network {
  readonly ground: Ground
  /** Connections that stand, by their id. */
  readonly wires = new Map<string, Wire>()
  readonly #sockets = new Map<DecodeRank, Sockets>()

  constructor(ground: Ground) {
    this.ground = ground
  }

  /** The process behind an address. */
  listening(endpoint: string): PrefillRank | undefined {
    const slot = this.ground.cast.prefills.find((each) => each.endpoint === endpoint)
    return slot?.process.alive === true ? slot.process : undefined
  }

  connect(decode: DecodeRank, endpoint: string): void {
    let sockets = this.#sockets.get(decode)
    if (!sockets) {
      sockets = { clients: new Map(), unsure: new Map() }
      this.#sockets.set(decode, sockets)
    }
    const { clients, unsure } = sockets
    clients.get(endpoint)?.close()
    clients.set(endpoint, new Dialler(this, decode, endpoint, unsure))
  }

  disconnect(decode: DecodeRank, endpoint: string): void {
    const clients = this.#sockets.get(decode)?.clients
    clients?.get(endpoint)?.close()
    clients?.delete(endpoint)
  }

  sendUp(decode: DecodeRank, endpoint: string, message: Message): void {
    this.#sockets.get(decode)?.clients.get(endpoint)?.wire?.sendUp(message)
  }

  sendDown(prefill: PrefillRank, connection: string, message: Message): void {
    const wire = this.wires.get(connection)
    if (wire?.prefill === prefill) wire.sendDown(message)
  }

  /** The process is gone, and its sockets with it. */
  onExit(process: AnyRank): void {
    for (const wire of [...this.wires.values()]) {
      if (wire.prefill === process) wire.end('server')
      else if (wire.decode === process) wire.end('client')
    }
    if (process.side === 'prefill') return
    for (const client of this.#sockets.get(process)?.clients.values() ?? []) client.close()
    this.#sockets.delete(process)
  }

  /** Nothing passes between two processes for a while. Their connection may break meanwhile. */
  cut(decode: Slot, prefill: Slot, ms: number): void {
    const { context, cuts } = this.ground
    const { clock, random } = context
    cuts.cut(decode, prefill, ms)
    context.log(() => `nothing passes between ${decode.name} and ${prefill.name} for ${ms} ms`)
    const between = () =>
      [...this.wires.values()].filter((w) => w.decode.slot === decode && w.prefill.slot === prefill)
    if (ms < Infinity)
      clock.after(ms + 1, () => {
        for (const wire of between()) wire.release()
      })
    clock.after(random.between(200, 900), () => {
      if (cuts.isCut(decode, prefill)) for (const wire of between()) wire.end('network')
    })
  }

  /** What was cut between these slots passes again, and what was held back arrives. */
  mend(slots: readonly Slot[]): void {
    this.ground.cuts.mend(slots)
    for (const wire of [...this.wires.values()])
      if (slots.includes(wire.decode.slot) && slots.includes(wire.prefill.slot)) wire.release()
  }
}

/** A decode rank's client of one endpoint: it connects again for as long as it is not closed. */
class Dialler implements Client {
  readonly decode: DecodeRank
  readonly endpoint: string
  wire: Wire | undefined
  closed = false
  /** Connections made so far. */
  #made = 0
  readonly #unsure: Map<string, Unsure>
  readonly #network: Network

  constructor(network: Network, decode: DecodeRank, endpoint: string, unsure: Map<string, Unsure>) {
    this.#network = network
    this.decode = decode
    this.endpoint = endpoint
    this.#unsure = unsure
    this.#attemptAfter(network.ground.context.random.between(2, 30))
  }

  close(): void {
    this.closed = true
    const { wire } = this
    this.wire = undefined
    wire?.end('client')
  }

  get isAgain(): boolean {
    return this.#made > 1
  }

  onEnd(wire: Wire): void {
    const { context } = this.#network.ground
    if (context.shape.repeats) this.#unsure.set(this.endpoint, wire.unsure)
    this.#network.wires.delete(wire.id)
  }

  /** Another connection is made. */
  onLost(wire: Wire): void {
    if (this.wire !== wire || this.closed) return
    this.wire = undefined
    this.#tell('link.down')
    this.#attemptAfter(this.#network.ground.context.random.between(10, 120))
  }

  #tell(type: 'link.up' | 'link.down'): void {
    this.decode.step({ type, endpoint: this.endpoint })
  }

  #attemptAfter(ms: number): void {
    const network = this.#network
    const { context, cuts } = network.ground
    const { random } = context
    this.decode.later(ms, () => {
      if (this.closed || this.wire) return
      const prefill = network.listening(this.endpoint)
      if (!prefill || prefill.frozen || cuts.isCut(this.decode.slot, prefill.slot)) {
        // Every failed attempt is told.
        if (random.chance(0.3)) this.#tell('link.down')
        this.#attemptAfter(random.between(40, 160))
        return
      }
      this.#made++
      this.wire = new Wire(network.ground, this, prefill)
      network.wires.set(this.wire.id, this.wire)
      this.#tell('link.up')
      this.wire.repeat(this.#unsure.get(this.endpoint))
      this.#unsure.delete(this.endpoint)
    })
  }
}
