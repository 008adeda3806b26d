/** A prefill rank: the reducer of production between a simulated network, engine and host. */
import { toKvxError, type KvxError, type Memory } from '@kvx/contract'
import {
  checksumJob,
  createPrefill,
  pageChecksums,
  stepPrefill,
  type Planner,
  type Message,
  type PrefillEffect,
  type PrefillEvent,
  type PrefillState,
} from '@kvx/core/protocol'
import type { EngineLink } from './engine.ts'
import { fault } from './faults.ts'
import { tellSender } from './hosts.ts'
import type { SendLeg } from './legs.ts'
import type { Wire } from './network.ts'
import { RankProcess, type PrefillSlot } from './process.ts'
import { isPing } from './trace.ts'
import type { World } from './world.ts'

export class PrefillRank extends RankProcess<PrefillRank> {
  readonly side = 'prefill'
  declare readonly slot: PrefillSlot
  readonly endpoint: string
  readonly incarnation: string
  readonly state: PrefillState
  readonly legs = new Map<number, SendLeg>()
  readonly links = new Map<string, EngineLink>()
  /** Attempts to connect that have not ended; each ends at once when called. */
  readonly opening = new Set<() => void>()
  readonly planners = new Map<string, Planner>()
  #generation = ''

  constructor(world: World, slot: PrefillSlot) {
    super(world, slot)
    this.endpoint = slot.endpoint
    this.incarnation = world.name('a')
    this.generation = world.name('e')
    const { shape } = world
    this.state = createPrefill(
      {
        incarnation: this.incarnation,
        instance: `prefill-${slot.instance}`,
        rank: slot.rank,
        backend: 'simulated',
        version: '1',
        fence: shape.fence,
        layout: slot.memory.layout,
        fingerprint: slot.memory.fingerprint,
        kvLayers: slot.memory.kvLayers,
        deadlines: shape.deadlines,
        limits: shape.limits,
      },
      this.generation,
    )
  }

  /** Of its engine. */
  get generation(): string {
    return this.#generation
  }

  set generation(generation: string) {
    this.#generation = generation
    this.world.writers.set(generation, this)
  }

  step(event: PrefillEvent): void {
    if (!this.alive) return
    for (const effect of stepPrefill(this.state, event, this.world.clock.now)) this.#perform(effect)
  }

  onMessage(wire: Wire, message: Message): void {
    const { world } = this
    world.coverage.count(this, wire, message)
    if (world.trace.lines && !isPing(message))
      world.log(() => `${wire.decode.name} → ${this.name}: ${world.trace.describe(message)}`)
    const event = { type: 'message', connection: wire.id, message } as const
    const isForeign = world.checks.isForeignAtPrefill(this, message)
    const effects = stepPrefill(this.state, event, world.clock.now)
    if (isForeign) world.checks.changesNothing(this.name, message, effects)
    else if (message.k === 'queued') world.checks.onQueued(this, message)
    for (const effect of effects) this.#perform(effect)
  }

  onDisconnected(connection: string): void {
    this.step({ type: 'disconnected', connection })
  }

  onEngineFailed(error: KvxError): void {
    this.world.log(() => `${this.name} has no engine any more`)
    this.generation = ''
    this.step({ type: 'engine.failed', error })
    this.world.superviseAfter(this.slot, this)
  }

  protected tick(): void {
    this.step({ type: 'tick' })
  }

  #perform(effect: PrefillEffect): void {
    const { world } = this
    switch (effect.do) {
      case 'send':
        this.#send(effect.connection, effect.message)
        return
      case 'openLink':
        world.engines.openLink(this, effect)
        return
      case 'closeLink':
        world.engines.closeLink(this, effect.peer, effect.generation)
        return
      case 'post':
        world.engines.post(this, effect)
        return
      case 'cancel':
        world.engines.cancel(this, effect.piece)
        return
      case 'recycle':
        world.checks.onRecycle(this)
        world.engines.recyclePrefill(this)
        return
      case 'checksum':
        this.#checksum(effect)
        return
      default:
        tellSender(this, effect)
    }
  }

  #send(connection: string, given: Message): void {
    const { world } = this
    const message = this.#falsified(world.checked(given))
    world.checks.onPrefillSays(this, message)
    const wire = world.wires.get(connection)
    if (wire?.prefill === this) wire.sendDown(message)
  }

  /** A defective prefill counts wrong. */
  #falsified(message: Message): Message {
    const { armed } = this.slot
    if (message.k !== 'complete' || armed.wrongManifests === 0) return message
    const kv = message.manifest.parts.kv
    const reserve = this.world.decodeOf(message.to)?.epochs.get(message.ep)
    if (!kv || !reserve) return message
    armed.wrongManifests--
    this.slot.mask |= fault.engine
    reserve.leg.job.clean = false
    const parts = { ...message.manifest.parts, kv: { ...kv, pages: kv.pages + 1 } }
    const wrong = { ...message, manifest: { ...message.manifest, parts } }
    this.world.checks.wrongManifests.add(wrong)
    this.world.log(() => `${this.name} counts wrong`)
    return wrong
  }

  #checksum(effect: PrefillEffect & { do: 'checksum' }): void {
    const { sender, peer, epoch, planner, pages } = effect
    this.later(this.world.random.between(1, 20), () => {
      try {
        const memory = [viewOf(this.memory)]
        const job = checksumJob({ planner, side: 'source', component: 'kv', pages })
        const checksums = pageChecksums(job, memory)
        this.step({ type: 'checksums', sender, peer, epoch, checksums })
      } catch (cause) {
        this.step({ type: 'checksums.failed', sender, error: toKvxError(cause) })
      }
    })
  }
}

export function viewOf(bytes: Uint8Array): Memory {
  return {
    address: 0n,
    bytes: bytes.length,
    kind: 'cpu',
    device: 0,
    view: (offset, length) => bytes.subarray(offset, offset + length),
  }
}
