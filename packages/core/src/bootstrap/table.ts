import {
  type BootstrapReply,
  type InstanceRecord,
  type RankCoordinates,
  type RankRecord,
} from './messages.ts'

const maxRecords = 4_096

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
  readonly #instances = new Map<string, Instance>()
  #records = 0
  /** One count for all instances, so that the highest revision is the latest change. */
  #revision = 0

  /** @param service identifies this run of the service */
  constructor(service: string) {
    this.#service = service
  }

  /** Registers or renews for `leaseMs`; a renewal does not displace another incarnation. */
  put(record: RankRecord, leaseMs: number, kind: 'register' | 'renew'): Refusal | undefined {
    const instance = this.#instances.get(record.instance) ?? {
      ranks: new Map<string, Entry>(),
      revision: 0,
    }
    const key = rankKey(record.rank)
    const present = instance.ranks.get(key)
    if (
      kind === 'renew' &&
      present !== undefined &&
      present.record.incarnation !== record.incarnation
    ) {
      return refusal(
        'replaced',
        `Rank ${key} of '${record.instance}' is registered by a newer process.`,
      )
    }
    const size = sizeKey(record.rank)
    for (const [otherKey, other] of instance.ranks) {
      if (otherKey !== key && sizeKey(other.record.rank) !== size) {
        return refusal(
          'topology',
          `Rank ${key} of '${record.instance}' has the topology ${size}, rank ${otherKey} has ${sizeKey(other.record.rank)}.`,
        )
      }
    }
    if (present === undefined && this.#records >= maxRecords) {
      return refusal('full', `The bootstrap service holds ${maxRecords} ranks already.`)
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

  /** One instance; without a name, the one that changed last. */
  read(name: string | undefined): InstanceRecord | undefined {
    const latest = () =>
      [...this.#instances].sort(([, a], [, b]) => b.revision - a.revision)[0]?.[0]
    const found = name ?? latest()
    const instance = found === undefined ? undefined : this.#instances.get(found)
    if (found === undefined || instance === undefined) return undefined
    const ranks = [...instance.ranks.values()].map(({ record }) => record)
    return {
      instance: found,
      service: this.#service,
      revision: instance.revision,
      complete: ranks.length === rankCount(ranks[0]?.rank),
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
    const key = rankKey(record.rank)
    const present = instance?.ranks.get(key)
    if (instance === undefined || present?.record.incarnation !== record.incarnation) return
    clearTimeout(present.expiry)
    instance.ranks.delete(key)
    this.#records -= 1
    this.#changed(instance)
    if (instance.ranks.size === 0) this.#instances.delete(record.instance)
  }

  #changed(instance: Instance): void {
    this.#revision += 1
    instance.revision = this.#revision
  }
}

/** Ranks that an instance of this topology has. */
export function rankCount(rank: RankCoordinates | undefined): number {
  return rank === undefined ? 0 : rank.tpSize * rank.ppSize * rank.cpSize * rank.dpSize
}

function rankKey({ tp, pp, cp, dp }: RankCoordinates): string {
  return `tp${tp}/pp${pp}/cp${cp}/dp${dp}`
}

function sizeKey({ tpSize, ppSize, cpSize, dpSize }: RankCoordinates): string {
  return `tp${tpSize}/pp${ppSize}/cp${cpSize}/dp${dpSize}`
}

function sameRecord(a: RankRecord, b: RankRecord): boolean {
  return (
    a.incarnation === b.incarnation &&
    a.endpoint === b.endpoint &&
    a.backend === b.backend &&
    sizeKey(a.rank) === sizeKey(b.rank)
  )
}

function refusal(reason: Refusal['reason'], text: string): Refusal {
  return { kind: 'refused', reason, text }
}
