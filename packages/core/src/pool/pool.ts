import * as v from 'valibot'
import { KvxError } from '@kvx/contract'
import {
  callback,
  checked,
  exactly,
  integer,
  milliseconds,
  signal as abortSignal,
  such,
} from '../arguments.ts'
import { realTimer, type Timer } from './timer.ts'

/** The right to a set of pages. It ends once: by `release`, or by `quarantine`. */
export interface Lease {
  /** Ascending. */
  readonly pages: Int32Array
  /**
   * Moves some of the pages to a lease of their own, which ends by itself.
   * @throws KvxError `ERR_KVX_INVALID_STATE` when the lease has ended, `ERR_KVX_INVALID_ARGUMENT` for a page that it does
   *   not have, which changes nothing
   */
  split(pages: Iterable<number>): Lease
  /**
   * The pages are free again.
   * @throws KvxError `ERR_KVX_INVALID_STATE` when the lease has ended
   */
  release(): void
  /**
   * Ends the lease of pages into which bytes may still land: they are free when `until` resolves, and
   * never by time. If it rejects they stay quarantined.
   * @throws KvxError `ERR_KVX_INVALID_STATE` when the lease has ended, `ERR_KVX_INVALID_ARGUMENT` for no promise, which
   *   changes nothing
   */
  quarantine(until: Promise<void>): void
}

/** How many pages are what. The three make the size of the pool. */
export interface PageCounts {
  /** To be had at once. */
  readonly free: number
  /** Of live leases. */
  readonly leased: number
  /** Bytes may still land in them. */
  readonly quarantined: number
}

const code = 'ERR_KVX_INVALID_ARGUMENT'
const pageTotal = integer(0, 2 ** 31 - 1)
const waiting = exactly({
  signal: v.optional(abortSignal),
  timeoutMs: v.optional(milliseconds),
})
const promise = such<Promise<void>>(
  'a Promise',
  (value) => typeof (value as { then?: unknown } | null | undefined)?.then === 'function',
)

interface Waiter {
  readonly count: number
  readonly grant: (lease: Lease) => void
}

/** Pages 0 to `size` − 1 with a free list and leases. */
export class PagePool {
  /** Pages in all. */
  readonly size: number
  /** 1: free. */
  readonly #free: Uint8Array
  readonly #waiters = new Set<Waiter>()
  #freeCount: number
  #quarantined = 0
  readonly #timer: Timer

  /**
   * @param timer only for `allocate`; a simulation passes its own
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
   */
  constructor(size: number, timer = realTimer) {
    checked(pageTotal, size, { code, name: 'size' })
    checked(callback, timer, { code, name: 'timer' })
    this.size = size
    this.#free = new Uint8Array(size).fill(1)
    this.#freeCount = size
    this.#timer = timer
  }

  /** What the pages are now. */
  counts(): PageCounts {
    return {
      free: this.#freeCount,
      leased: this.size - this.#freeCount - this.#quarantined,
      quarantined: this.#quarantined,
    }
  }

  /**
   * A lease at once, or `undefined` when there are not enough free pages or others wait already.
   * @throws KvxError `ERR_KVX_INVALID_ARGUMENT`
   */
  tryAllocate(count: number): Lease | undefined {
    checked(pageTotal, count, { code, name: 'count' })
    return this.#waiters.size === 0 ? this.#take(count) : undefined
  }

  /**
   * A lease as soon as enough pages are free, in the order of the calls.
   *
   * @param options.timeoutMs default 30,000
   * @throws KvxError `ERR_KVX_POOL_EXHAUSTED` at the deadline, or at once when the pool is smaller than
   *   `count`; `ERR_KVX_ABORTED` when the signal is; `ERR_KVX_INVALID_ARGUMENT`
   */
  allocate(
    count: number,
    options: { signal?: AbortSignal; timeoutMs?: number } = {},
  ): Promise<Lease> {
    return new Promise<Lease>((resolve, reject) => {
      checked(pageTotal, count, { code, name: 'count' })
      checked(waiting, options, { code, name: 'options' })
      const { signal, timeoutMs = 30_000 } = options
      if (count > this.size) {
        throw new KvxError(
          'ERR_KVX_POOL_EXHAUSTED',
          `${count} pages were asked for, but the whole pool has ${this.size}. Use a larger pool or a shorter prompt.`,
        )
      }
      if (signal?.aborted === true) throw aborted(signal)
      const lease = this.tryAllocate(count)
      if (lease !== undefined) {
        resolve(lease)
        return
      }
      const end = () => {
        this.#waiters.delete(waiter)
        stopTimer()
        signal?.removeEventListener('abort', onAbort)
      }
      const waiter: Waiter = {
        count,
        grant: (granted) => {
          end()
          resolve(granted)
        },
      }
      const fail = (error: KvxError) => {
        end()
        reject(error)
        // Those behind may fit now.
        this.#serve()
      }
      const onAbort = () => {
        fail(aborted(signal))
      }
      const stopTimer = this.#timer(timeoutMs, () => {
        fail(this.#exhausted(count, timeoutMs))
      })
      signal?.addEventListener('abort', onAbort)
      this.#waiters.add(waiter)
    })
  }

  /** First come, first served: a large request is not overtaken for ever by small ones. */
  #serve(): void {
    for (const waiter of this.#waiters) {
      const lease = this.#take(waiter.count)
      if (lease === undefined) return
      waiter.grant(lease)
    }
  }

  #take(count: number): Lease | undefined {
    if (count > this.#freeCount) return undefined
    const pages = this.#choose(count)
    for (const page of pages) this.#free[page] = 0
    this.#freeCount -= count
    return this.#lease(pages)
  }

  /** The first run of free pages that is long enough, else the lowest free pages: runs merge when they move. */
  #choose(count: number): Int32Array {
    const pages = new Int32Array(count)
    let found = 0
    let run = 0
    for (let page = 0; page < this.size; page += 1) {
      if (this.#free[page] === 0) {
        run = 0
        continue
      }
      if (found < count) {
        pages[found] = page
        found += 1
      }
      run += 1
      if (run >= count) {
        const first = page - count + 1
        return pages.map((_, i) => first + i)
      }
    }
    return pages
  }

  #lease(pages: Int32Array): Lease {
    let held = true
    const checkHeld = () => {
      if (held) return
      throw new KvxError(
        'ERR_KVX_INVALID_STATE',
        'The lease has ended: it was released or quarantined before.',
      )
    }
    const end = () => {
      checkHeld()
      held = false
    }
    // A private copy, so that nobody can make the pool free pages of another lease.
    let own = pages.slice()
    let shown = pages
    return {
      get pages() {
        return shown
      },
      split: (some) => {
        checkHeld()
        const wanted = new Set(some)
        const taken = own.filter((page) => wanted.has(page))
        for (const page of taken) wanted.delete(page)
        const [foreign] = wanted
        if (foreign !== undefined) {
          throw new KvxError(code, `The lease has no page ${String(foreign)}.`)
        }
        const moved = new Set(taken)
        own = own.filter((page) => !moved.has(page))
        shown = own.slice()
        return this.#lease(taken)
      },
      release: () => {
        end()
        this.#release(own)
      },
      quarantine: (until) => {
        const landed = checked(promise, until, { code, name: 'until' })
        end()
        this.#quarantined += own.length
        landed.then(
          () => {
            this.#quarantined -= own.length
            this.#release(own)
          },
          () => undefined,
        )
      },
    }
  }

  #release(pages: Int32Array): void {
    for (const page of pages) this.#free[page] = 1
    this.#freeCount += pages.length
    this.#serve()
  }

  #exhausted(count: number, timeoutMs: number): KvxError {
    const { free, leased, quarantined } = this.counts()
    return new KvxError(
      'ERR_KVX_POOL_EXHAUSTED',
      `${count} pages did not become free within ${timeoutMs} ms: ${free} are free, ${leased} in use, ${quarantined} quarantined.`,
    )
  }
}

function aborted(signal: AbortSignal | undefined): KvxError {
  return new KvxError('ERR_KVX_ABORTED', 'Waiting for free pages was aborted.', {
    cause: signal?.reason,
  })
}
