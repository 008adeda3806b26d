/**
 * The bootstrap service of each prefill instance: ranks register for a lease and renew it; decode ranks
 * watch. It runs in the process of the instance's first rank, so it stops and restarts with it, and may
 * be unreachable by itself.
 */
import { KvxError } from '@kvx/contract'
import { rankName, roomKey, type Rank, type Sample } from '@kvx/core/protocol'
import type { Context } from '../machine/context.ts'
import type { Cast } from '../ranks/cast.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { PrefillRank, PrefillSlot } from '../ranks/prefill.ts'
import { lease } from '../shape/shape.ts'

interface Record {
  readonly endpoint: string
  readonly incarnation: string
  readonly instance: string
  readonly rank: Rank
}

/** The services of all prefill instances, and who watches them. */
export class Bootstraps {
  readonly #services: readonly Bootstrap[]
  /** Of each decode process, by service. */
  readonly #watches = new Map<DecodeRank, Map<string, Watch>>()
  readonly #context: Context
  readonly #cast: Cast

  constructor(context: Context, cast: Cast) {
    this.#context = context
    this.#cast = cast
    this.#services = context.shape.prefills.map((_, instance) => {
      const slots = cast.prefills.filter((slot) => slot.instance === instance)
      return new Bootstrap(context, `tcp://bootstrap-${instance}:1`, slots)
    })
  }

  /** The service of a prefill instance. */
  of(instance: number): Bootstrap {
    return this.#services[instance]!
  }

  watch(decode: DecodeRank, from: string): void {
    const service = this.#services.find((each) => each.from === from)
    if (!service) return
    const watches = this.#watches.get(decode) ?? new Map<string, Watch>()
    this.#watches.set(decode, watches.set(from, service.watch(decode)))
  }

  watchOf(decode: DecodeRank, from: string): Watch | undefined {
    return this.#watches.get(decode)?.get(from)
  }

  unwatch(decode: DecodeRank, from: string): void {
    const watches = this.#watches.get(decode)
    watches?.get(from)?.close()
    watches?.delete(from)
  }

  /** The connections to a service are lost: whoever watches it asks again. */
  lose({ from }: Bootstrap): void {
    const { clock, random } = this.#context
    for (const { process } of this.#cast.decodes)
      clock.after(random.between(0, 100), () => this.#watches.get(process)?.get(from)?.hurry())
  }

  /** The process is gone, and its watches or the service in it. */
  onExit(process: PrefillRank | DecodeRank): void {
    if (process.side === 'prefill') {
      const service = this.of(process.slot.instance)
      service.lapse(process)
      service.forget(process)
      if (service.host === process) this.lose(service)
      return
    }
    for (const watch of this.#watches.get(process)?.values() ?? []) watch.close()
    this.#watches.delete(process)
  }
}

export class Bootstrap {
  readonly context: Context
  readonly from: string
  readonly slots: readonly PrefillSlot[]
  /** Nobody reaches it. */
  unreachable = false
  revision = 0
  readonly #records = new Map<string, { record: Record; of: PrefillRank }>()
  readonly #watches = new Set<Watch>()
  /** Who computes a request, by its key. */
  readonly #published = new Map<string, PrefillRank>()

  constructor(context: Context, from: string, slots: readonly PrefillSlot[]) {
    this.context = context
    this.from = from
    this.slots = slots
  }

  /** The process that it runs in. */
  get host(): PrefillRank | undefined {
    return this.slots[0]?.process
  }

  answers(): boolean {
    return !this.unreachable && this.host?.alive === true && !this.host.frozen
  }

  /** A rank registers, or renews. Registering again replaces what stood there of the same rank. */
  register(of: PrefillRank): void {
    if (!of.alive) return
    if (!this.answers() || of.frozen) {
      this.context.clock.after(this.context.random.between(60, 200), () => this.register(of))
      return
    }
    const { incarnation, instance, rank } = of.state.self
    const key = rankName(rank)
    if (this.#records.get(key)?.record.incarnation === incarnation) return
    this.#records.set(key, { record: { endpoint: of.endpoint, incarnation, instance, rank }, of })
    this.#changed()
    if (of.published.size > 0) this.announce(of)
  }

  /** Its process does not renew any more: after the lease the record goes. */
  lapse(of: PrefillRank): void {
    this.context.clock.after(lease, () => {
      if (of.alive && !of.frozen) return
      const key = rankName(of.state.self.rank)
      if (this.#records.get(key)?.of !== of) return
      this.#records.delete(key)
      this.#changed()
      if (of.alive) this.register(of)
    })
  }

  /** A rank says which requests it computes: all of them, as after a reconnect. */
  announce(of: PrefillRank): void {
    const { clock, random } = this.context
    clock.after(random.between(1, 40), () => {
      if (!of.alive) return
      if (!this.answers() || of.frozen) {
        this.announce(of)
        return
      }
      this.forget(of)
      for (const key of of.published.keys()) this.#published.set(key, of)
    })
  }

  /** Its connection has ended, or it withdraws what it does not say again. */
  forget(of: PrefillRank): void {
    for (const [key, by] of this.#published) if (by === of) this.#published.delete(key)
  }

  /** The data-parallel rank that computes a request, as far as it is known here. */
  publishedFor({ room, index }: Sample): number | undefined {
    return this.#published.get(roomKey(room, index))?.slot.rank.dp
  }

  /** A new service: empty, until the ranks renew. */
  restart(): void {
    this.#records.clear()
    this.#published.clear()
    this.#changed()
    for (const { process } of this.slots)
      this.context.clock.after(this.context.random.between(10, 250), () => this.register(process))
  }

  /** All ranks, or undefined while one is missing. */
  complete(): Record[] | undefined {
    if (this.#records.size < this.slots.length) return undefined
    return [...this.#records.values()].map(({ record }) => record)
  }

  watch(decode: DecodeRank): Watch {
    const watch = new Watch(this, decode)
    this.#watches.add(watch)
    return watch
  }

  unwatch(watch: Watch): void {
    this.#watches.delete(watch)
  }

  #changed(): void {
    this.revision++
    for (const watch of this.#watches) watch.hurry()
  }
}

/** A decode rank's watch: asks, waits long for another revision, tries again with growing pauses. */
export class Watch {
  readonly #bootstrap: Bootstrap
  readonly #decode: DecodeRank
  #seen = -1
  #open = true
  #asking = false
  readonly #samples = new Map<string, Sample>()
  #polling = false

  constructor(bootstrap: Bootstrap, decode: DecodeRank) {
    this.#bootstrap = bootstrap
    this.#decode = decode
    this.#ask(bootstrap.context.random.between(2, 40))
  }

  close(): void {
    this.#open = false
    this.#bootstrap.unwatch(this)
  }

  /** Tells once which data-parallel rank computes a request, when that is known. */
  ask({ room, index }: Sample): void {
    this.#samples.set(roomKey(room, index), { room, index })
    if (!this.#polling) this.#poll()
  }

  unask({ room, index }: Sample): void {
    this.#samples.delete(roomKey(room, index))
  }

  #poll(): void {
    const bootstrap = this.#bootstrap
    const { clock, random } = bootstrap.context
    this.#polling = this.#samples.size > 0
    if (!this.#polling) return
    clock.after(random.between(2, 60), () => {
      if (!this.#open || !this.#decode.alive) return
      for (const [key, sample] of this.#samples) {
        const dp = bootstrap.answers() ? bootstrap.publishedFor(sample) : undefined
        if (dp === undefined) continue
        this.#decode.later(random.between(1, 30), () => {
          if (this.#open && this.#samples.delete(key))
            this.#decode.onPublished(bootstrap.from, sample, dp)
        })
      }
      this.#poll()
    })
  }

  /** There is news. */
  hurry(): void {
    if (this.#open && !this.#asking) this.#ask(this.#bootstrap.context.random.between(2, 60))
  }

  /** Asks once after `ms`. The answer is as old as the way back is long. */
  #ask(ms: number): void {
    const bootstrap = this.#bootstrap
    const { context, from } = bootstrap
    this.#asking = true
    context.clock.after(ms, () => {
      if (!this.#open || !this.#decode.alive) return
      const ranks = bootstrap.answers() ? bootstrap.complete() : undefined
      const { revision } = bootstrap
      this.#decode.later(context.random.between(1, 30), () => {
        if (!this.#open) return
        this.#asking = false
        if (!ranks) {
          const error = new KvxError(
            'ERR_KVX_BOOTSTRAP_UNREACHABLE',
            'The bootstrap does not answer.',
            {
              phase: 'bootstrap',
              peer: from,
            },
          )
          this.#decode.onSourceFailed(from, error)
          this.#ask(context.random.between(40, 250))
          return
        }
        if (revision !== this.#seen) {
          this.#seen = revision
          this.#decode.onSourceRead(from, ranks)
        }
        if (bootstrap.revision !== revision || !bootstrap.answers()) this.hurry()
      })
    })
  }
}
