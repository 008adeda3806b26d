/** A decode rank: the reducer of production between a simulated network, engine and host. */
import { KvxError, toKvxError } from '@kvx/contract'
import {
  checksumJob,
  createDecode,
  pageChecksums,
  stepDecode,
  type DecodeEffect,
  type DecodeEvent,
  type DecodeState,
  type Message,
} from '@kvx/core/protocol'
import type { Watch } from './bootstrap.ts'
import { tellReceiver } from './hosts.ts'
import type { ReceiveLeg, Reserve } from './legs.ts'
import { Client, type Unsure, type Wire } from './network.ts'
import { viewOf } from './prefill.ts'
import { RankProcess, type DecodeSlot } from './process.ts'
import { isPing } from './trace.ts'
import type { World } from './world.ts'

type SourceRanks = (DecodeEvent & { type: 'source.read' })['ranks']

export class DecodeRank extends RankProcess<DecodeRank> {
  readonly side = 'decode'
  declare readonly slot: DecodeSlot
  readonly incarnation: string
  readonly state: DecodeState
  readonly legs = new Map<number, ReceiveLeg>()
  readonly clients = new Map<string, Client>()
  /** By endpoint: what a repeating transport sends again on the next connection. */
  readonly unsure = new Map<string, Unsure>()
  readonly #watches = new Map<string, Watch>()
  /** Every reserve that it has sent. */
  readonly epochs = new Map<number, Reserve>()
  /** Generation of its engine; empty while there is none. */
  generation: string
  /** The same as the reducer knows it: of the last engine that was opened. */
  current: string
  /** Writers that have connected to its engine, and those that never may. */
  readonly everConnected = new Set<string>()
  readonly barred = new Set<string>()

  constructor(world: World, slot: DecodeSlot) {
    super(world, slot)
    this.incarnation = world.name('d')
    this.generation = world.name('e')
    this.current = this.generation
    const { shape } = world
    this.state = createDecode(
      {
        incarnation: this.incarnation,
        session: world.name('c'),
        instance: `decode-${slot.instance}`,
        rank: slot.rank,
        backend: 'simulated',
        version: '1',
        fence: shape.fence,
        layout: slot.memory.layout,
        fingerprint: slot.memory.fingerprint,
        verify: shape.verify,
        deadlines: shape.deadlines,
        limits: shape.limits,
      },
      { generation: this.generation, address: new Uint8Array(1), regions: [new Uint8Array(1)] },
    )
  }

  step(event: DecodeEvent): void {
    if (!this.alive) return
    for (const effect of stepDecode(this.state, event, this.world.clock.now)) this.#perform(effect)
  }

  onMessage(wire: Wire, message: Message): void {
    const { world } = this
    world.coverage.count(this, wire, message)
    if (world.trace.lines && !isPing(message))
      world.log(() => `${wire.prefill.name} → ${this.name}: ${world.trace.describe(message)}`)
    const isForeign = world.checks.isForeignAtDecode(this, wire, message)
    if (!isForeign) world.checks.onDecodeHears(this, message)
    const event = { type: 'message', endpoint: wire.client.endpoint, message } as const
    const effects = stepDecode(this.state, event, world.clock.now)
    if (isForeign) world.checks.changesNothing(this.name, message, effects)
    else if (message.k === 'welcome') world.checks.onWelcome(this, wire, message.from, effects)
    for (const effect of effects) this.#perform(effect)
  }

  onLinkUp(endpoint: string): void {
    this.step({ type: 'link.up', endpoint })
  }

  onLinkDown(endpoint: string): void {
    this.step({ type: 'link.down', endpoint })
  }

  onSourceRead(from: string, ranks: SourceRanks): void {
    this.world.log(() => `${this.name} reads ${from}`)
    this.step({ type: 'source.read', from, ranks })
  }

  onSourceFailed(from: string, error: KvxError): void {
    this.world.log(() => `${this.name} cannot read ${from}`)
    this.step({ type: 'source.failed', from, error })
  }

  onFenced(writer: string): void {
    this.world.log(
      () => `${this.name} has fenced ${this.world.writers.get(writer)?.name ?? writer}`,
    )
    this.world.checks.onFenced(this, writer)
    this.step({ type: 'fenced', writer })
  }

  onRecycled(): void {
    this.world.log(() => `${this.name} has a new engine`)
    this.world.checks.onRecycled(this)
    this.current = this.generation
    const engine = {
      generation: this.generation,
      address: new Uint8Array(1),
      regions: [new Uint8Array(1)],
    }
    this.step({ type: 'engine.recycled', engine })
  }

  onEngineFailed(error: KvxError): void {
    this.world.log(() => `${this.name} has no engine any more`)
    this.step({ type: 'engine.failed', error })
    this.world.superviseAfter(this.slot, this)
  }

  /** The connection to a bootstrap service is lost. */
  onBootstrapLost(from: string): void {
    this.#watches.get(from)?.lost()
  }

  /** The process ends: so do its sockets. */
  closeSockets(): void {
    for (const client of this.clients.values()) client.close()
    for (const watch of this.#watches.values()) watch.close()
  }

  protected tick(): void {
    this.step({ type: 'tick' })
  }

  #perform(effect: DecodeEffect): void {
    const { world } = this
    switch (effect.do) {
      case 'send':
        this.#send(effect.endpoint, world.checked(effect.message))
        return
      case 'watchSource': {
        const bootstrap = world.bootstraps.get(effect.from)
        if (bootstrap) this.#watches.set(effect.from, bootstrap.watch(this))
        return
      }
      case 'unwatchSource':
        this.#watches.get(effect.from)?.close()
        this.#watches.delete(effect.from)
        return
      case 'connect':
        this.clients.get(effect.endpoint)?.close()
        this.clients.set(effect.endpoint, new Client(this, effect.endpoint))
        return
      case 'disconnect':
        this.clients.get(effect.endpoint)?.close()
        this.clients.delete(effect.endpoint)
        return
      case 'verify':
        this.#verify(effect)
        return
      case 'fence':
        world.checks.onFence(this)
        world.engines.fence(this, effect.writer)
        return
      case 'recycle':
        world.checks.onRecycle(this)
        world.engines.recycleDecode(this)
        return
      default:
        tellReceiver(this, effect)
    }
  }

  #send(endpoint: string, message: Message): void {
    this.world.checks.onDecodeSays(this, message)
    this.clients.get(endpoint)?.send(message)
  }

  #verify(effect: DecodeEffect & { do: 'verify' }): void {
    const { request, epoch, planner, pages, checksums } = effect
    this.later(this.world.random.between(1, 20), () => {
      let error: KvxError | undefined
      try {
        const memory = [viewOf(this.memory)]
        const landed = pageChecksums(
          checksumJob({ planner, side: 'destination', component: 'kv', pages }),
          memory,
        )
        if (landed.some((sum, i) => sum !== checksums[i]! >>> 0))
          error = new KvxError('ERR_KVX_CHECKSUM_MISMATCH', 'a page arrived damaged', {
            phase: 'complete',
          })
      } catch (cause) {
        error = toKvxError(cause)
      }
      this.step({ type: 'verified', request, epoch, error })
    })
  }
}
