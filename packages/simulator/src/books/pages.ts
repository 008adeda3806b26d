/** Who owns which page. */
import { PagePool, type Lease } from '@kvx/core'
import { violate } from '../machine/violation.ts'
import type { Leg } from './legs.ts'

/** Somebody else on the same machine who takes pages of a pool. */
export const occupier = 'occupier'
export type Owner = Leg | typeof occupier

/** Pages of one component: the pool that hosts use, and beside it who owns what. */
export class PageBook {
  readonly pool: PagePool
  readonly owners: (Owner | undefined)[]
  readonly #name: string
  readonly #touched: PageBook[]

  /** @param touched collects the books in which pages have changed hands */
  constructor(name: string, size: number, touched: PageBook[]) {
    this.#name = name
    this.#touched = touched
    this.pool = new PagePool(size)
    this.owners = Array.from({ length: size }, () => undefined)
  }

  take(count: number, owner: Owner): Lease | undefined {
    const lease = this.pool.tryAllocate(count)
    if (!lease) return undefined
    this.#touched.push(this)
    for (const page of lease.pages) {
      if (this.owners[page] !== undefined)
        violate('page given twice', `page ${page} of ${this.#name}`)
      this.owners[page] = owner
    }
    return lease
  }

  disown(pages: Int32Array): void {
    this.#touched.push(this)
    for (const page of pages) this.owners[page] = undefined
  }

  /** Pool and book must agree after every event. */
  check(): void {
    const { pool, owners } = this
    let free = 0
    for (const owner of owners) if (owner === undefined) free++
    const counts = pool.counts()
    if (counts.free === free && counts.free + counts.leased + counts.quarantined === pool.size)
      return
    violate(
      'pool disagrees',
      `${free} pages of ${this.#name} are free, the pool says ${JSON.stringify(counts)}`,
    )
  }
}
