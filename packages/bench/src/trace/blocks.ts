/** A decode rank's prefix cache: pages of whole blocks, which stay until others need them. */
import { KvxError } from '@kvx/contract'
import type { Lease, PagePool } from '@kvx/core'

interface Block {
  readonly id: number
  readonly lease: Lease
  /** Requests that read it. */
  readers: number
}

/** Blocks that a request reads, in the order of its prompt. */
export type Pinned = readonly Block[]

export class BlockCache {
  readonly #pool: PagePool
  /** The longest unused one first. */
  readonly #blocks = new Map<number, Block>()
  /** Who waits for pages, in the order of the calls. */
  #turn: Promise<unknown> = Promise.resolve()
  #freed: () => void = () => undefined

  constructor(pool: PagePool) {
    this.#pool = pool
  }

  unpin(pinned: Pinned): void {
    for (const block of pinned) {
      block.readers--
      // The one that was used last is dropped last. It may be a twin, which nobody finds: then it goes at once.
      if (this.#blocks.get(block.id) === block) {
        this.#blocks.delete(block.id)
        this.#blocks.set(block.id, block)
      } else if (block.readers === 0) block.lease.release()
    }
    this.#freed()
  }

  /**
   * The blocks at the beginning of a prompt that are here, which stay until `unpin`, and leases for what is not. Blocks
   * that nobody reads make room; when that is not enough it waits. Only the first in line pins anything, so that those who
   * wait never hold what the first one needs.
   *
   * @param ids that may be here
   * @param counts pages of each further lease, when so many blocks are here
   * @throws KvxError `ERR_KVX_POOL_EXHAUSTED` when the whole pool is smaller than the prompt
   */
  take(
    ids: readonly number[],
    counts: (blocks: number) => readonly number[],
  ): Promise<{ pinned: Pinned; leases: Lease[] }> {
    const mine = this.#turn.then(async () => {
      const whole = pagesIn(counts(0))
      if (whole > this.#pool.size) {
        throw new KvxError(
          'ERR_KVX_POOL_EXHAUSTED',
          `A prompt needs ${String(whole)} pages, and the pool has ${String(this.#pool.size)}.`,
        )
      }
      const pinned = this.#pin(ids)
      const wanted = counts(pinned.length)
      while (!this.#makeRoom(pagesIn(wanted))) {
        await new Promise<void>((resolve) => (this.#freed = resolve))
      }
      return { pinned, leases: wanted.map((count) => this.#pool.tryAllocate(count)!) }
    })
    this.#turn = mine.catch(() => undefined)
    return mine
  }

  /** Pages of a block that has arrived, read by one request; a twin of one that is here already is that request's alone. */
  keep(id: number, lease: Lease): Block {
    const block = { id, lease, readers: 1 }
    if (!this.#blocks.has(id)) this.#blocks.set(id, block)
    return block
  }

  release(lease: Lease): void {
    lease.release()
    this.#freed()
  }

  /** Drops every block that nobody reads. */
  clear(): void {
    this.#makeRoom(Infinity)
  }

  #pin(ids: readonly number[]): Pinned {
    const pinned: Block[] = []
    for (const id of ids) {
      const block = this.#blocks.get(id)
      if (block === undefined) break
      block.readers++
      pinned.push(block)
    }
    return pinned
  }

  #makeRoom(pages: number): boolean {
    for (const [id, block] of this.#blocks) {
      if (this.#pool.counts().free >= pages) break
      if (block.readers > 0) continue
      this.#blocks.delete(id)
      block.lease.release()
    }
    return this.#pool.counts().free >= pages
  }
}

const pagesIn = (counts: readonly number[]): number => counts.reduce((sum, count) => sum + count, 0)
