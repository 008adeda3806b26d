/** The pages and slots of a model's cache: a pool for each component, of which a request leases from all at once. */
import { PagePool, type Lease, type PageCounts, type Place } from '@kvx/core'

/** What a request holds of every component. It ends once, as a `Lease` does. */
export interface CacheLease {
  readonly pages: Readonly<Record<string, Int32Array>>
  /** Pages and slots together. */
  readonly count: number
  release(): void
  quarantine(until: Promise<void>): void
}

export class CachePools {
  readonly #pools: readonly (readonly [name: string, pool: PagePool])[]

  constructor({ components }: Pick<Place, 'components'>) {
    this.#pools = Object.entries(components).map(([name, { pages }]) => [name, new PagePool(pages)])
  }

  /** Of all components together. */
  counts(): PageCounts {
    const all = { free: 0, leased: 0, quarantined: 0 }
    for (const [, pool] of this.#pools) {
      const { free, leased, quarantined } = pool.counts()
      all.free += free
      all.leased += leased
      all.quarantined += quarantined
    }
    return all
  }

  /**
   * Waits until there are so many pages of each component. The components are always asked in the same order, so that no
   * two requests wait for what the other one holds.
   *
   * @param counts by component; those that are absent are not leased
   * @throws KvxError as `PagePool.allocate`; nothing is held then
   */
  async allocate(
    counts: Readonly<Record<string, number>>,
    options: { signal: AbortSignal; timeoutMs: number },
  ): Promise<CacheLease> {
    const leases: [string, Lease][] = []
    try {
      for (const [name, pool] of this.#pools) {
        const count = counts[name]
        if (count !== undefined) leases.push([name, await pool.allocate(count, options)])
      }
    } catch (error) {
      for (const [, lease] of leases) lease.release()
      throw error
    }
    return {
      pages: Object.fromEntries(leases.map(([name, { pages }]) => [name, pages])),
      count: leases.reduce((sum, [, { pages }]) => sum + pages.length, 0),
      release: () => {
        for (const [, lease] of leases) lease.release()
      },
      quarantine: (until) => {
        for (const [, lease] of leases) lease.quarantine(until)
      },
    }
  }
}
