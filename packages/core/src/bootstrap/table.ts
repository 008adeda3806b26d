import { contextName, maxRanks, rankCount, rankName, type Rank } from '../share/index.ts'
import { type BootstrapReply, type InstanceRecord, type RankRecord } from './messages.ts'

interface Entry {
  readonly record: RankRecord
  readonly expiry: NodeJS.Timeout
}

interface Instance {
  readonly ranks: Map<string, Entry>
  revision: number
}

type Refusal = Omit<Extract<BootstrapReply, { kind: 'refused' }>, 'v'>

/** Who is registered, by instance and rank coordinates. Each entry ends with its lease. */
export class RankTable {
  readonly #service: string
  readonly #onChange: () => void
  readonly #instances = new Map<string, Instance>()
  #records = 0
  /** One count for all instances, so that the highest revision is the latest change. */
  #revision = 0

  /**
   * @param service identifies this run of the service
   * @param onChange called after each change of a revision
   */
  constructor(service: string, onChange: () => void) {
    this.#service = service
    this.#onChange = onChange
  }

  /** Registers or renews for `leaseMs`; a renewal does not displace another incarnation. */
  put(record: RankRecord, leaseMs: number, kind: 'register' | 'renew'): Refusal | undefined {
    const instance = this.#instances.get(record.instance) ?? {
      ranks: new Map<string, Entry>(),
      revision: 0,
    }
    const key = rankName(record.rank)
    const present = instance.ranks.get(key)
    if (
      kind === 'renew' &&
      present !== undefined &&
      present.record.incarnation !== record.incarnation
    ) {
      return refusal(
        'replaced',
        `Rank ${key} of '${record.instance}' is registered by a newer process, at ${present.record.endpoint} (incarnation ${present.record.incarnation}).`,
      )
    }
    const topology = topologyOf(record.rank)
    const other = anotherRank(instance, key)
    if (other !== undefined && topologyOf(other) !== topology) {
      return refusal(
        'topology',
        `Rank ${key} of '${record.instance}' has the topology ${topology}, rank ${rankName(other)} has ${topologyOf(other)}.`,
      )
    }
    if (present === undefined && this.#records >= maxRanks) {
      return refusal('full', `The bootstrap service holds ${maxRanks} ranks already.`)
    }
    const expiry = setTimeout(() => {
      this.#remove(record)
    }, leaseMs).unref()
    if (present === undefined) this.#records += 1
    else clearTimeout(present.expiry)
    instance.ranks.set(key, { record, expiry })
    this.#instances.set(record.instance, instance)
    if (present === undefined || !sameRecord(present.record, record)) this.#changed(instance)
    return undefined
  }

  /** Ends a registration; that of another incarnation stays. */
  remove(record: RankRecord): void {
    this.#remove(record)
  }

  /** Name of the instance that changed last. */
  latest(): string | undefined {
    return [...this.#instances].sort(([, a], [, b]) => b.revision - a.revision)[0]?.[0]
  }

  /** One instance; without a name, the one that changed last. */
  read(name: string | undefined): InstanceRecord | undefined {
    const found = name ?? this.latest()
    const instance = found === undefined ? undefined : this.#instances.get(found)
    if (found === undefined || instance === undefined) return undefined
    const ranks = [...instance.ranks.values()].map(({ record }) => record)
    const [first] = ranks
    return {
      instance: found,
      service: this.#service,
      revision: instance.revision,
      complete: first !== undefined && ranks.length === rankCount(first.rank),
      ranks,
    }
  }

  clear(): void {
    for (const { ranks } of this.#instances.values()) {
      for (const { expiry } of ranks.values()) clearTimeout(expiry)
    }
    this.#instances.clear()
    this.#records = 0
  }

  #remove(record: RankRecord): void {
    const instance = this.#instances.get(record.instance)
    const key = rankName(record.rank)
    const present = instance?.ranks.get(key)
    if (instance === undefined || present?.record.incarnation !== record.incarnation) return
    clearTimeout(present.expiry)
    instance.ranks.delete(key)
    this.#records -= 1
    if (instance.ranks.size === 0) this.#instances.delete(record.instance)
    this.#changed(instance)
  }

  #changed(instance: Instance): void {
    this.#revision += 1
    instance.revision = this.#revision
    this.#onChange()
  }
}

/** Any other rank: they all have the same topology. */
function anotherRank({ ranks }: Instance, key: string): Rank | undefined {
  for (const [otherKey, { record }] of ranks) if (otherKey !== key) return record.rank
  return undefined
}

function topologyOf({ tpSize, ppSize, cpSize, dpSize, stages, context }: Rank): string {
  const layers = stages.join('-')
  const shared = context === 'all' ? '' : `, context ${contextName(context)}`
  return `tp${tpSize}/pp${ppSize}/cp${cpSize}/dp${dpSize} with layers ${layers}${shared}`
}

function sameRecord(a: RankRecord, b: RankRecord): boolean {
  return (
    a.incarnation === b.incarnation &&
    a.endpoint === b.endpoint &&
    a.backend === b.backend &&
    topologyOf(a.rank) === topologyOf(b.rank)
  )
}

function refusal(reason: Refusal['reason'], text: string): Refusal {
  return { kind: 'refused', reason, text: text.slice(0, 1_024) }
}
