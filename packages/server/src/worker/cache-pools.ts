/**
 * The pages and slots of a model's cache: a pool for each component, of which a request leases from all at once, and the prefix
 * cache in front of them.
 */
import { PagePool, type Lease, type PageCounts } from '@kvx/core'
import type { ModelCache } from '@kvx/llama'
import { PrefixCache, type Prefix } from './prefix-cache.ts'

/** What a request holds of every component. It ends once, as a `Lease` does. */
export interface CacheLease {
  /** Of the whole prompt, those of the cached beginning included. */
  readonly pages: Readonly<Record<string, Int32Array>>
  /** Without those of the cached beginning. */
  readonly fresh: Readonly<Record<string, Int32Array>>
  /** Tokens of the prompt whose cache lies in the pages already. */
  readonly cachedTokens: number
  /** Pages and slots together, without those of the cached beginning. */
  readonly count: number
  /**
   * The pages hold the cache of the whole prompt now: others that begin alike may share them, unless it is a prompt of one token,
   * which is computed in another way. To be called once.
   */
  keep(): void
  release(): void
  quarantine(until: Promise<void>): void
}

/** What a prompt takes. */
export interface Wanted {
  readonly tokens: readonly number[]
  /** Tokens of which the cache may be shared, at most. */
  readonly shareable: number
  /** Pages by component when so many tokens are cached; those that are absent are not leased. */
  counts(cachedTokens: number): Readonly<Record<string, number>>
}

/**
 * Tokens of a prompt of which the cache may be shared by who computes the rest: at least two are left, since fewer would be computed
 * in another way than as a part of the prompt, and a token is scored by what was computed of the one before.
 */
export function shareableBeforeComputing(
  tokens: readonly number[],
  scoring: { readonly from: number } | undefined,
): number {
  return Math.min(tokens.length - 2, scoring ? scoring.from - 1 : Infinity)
}

/** `free`, or given back as soon as somebody needs it: `cached`. */
export interface CacheCounts extends PageCounts {
  readonly cached: number
}

interface Waiting {
  readonly signal: AbortSignal
  readonly timeoutMs: number
}

export class CachePools {
  readonly #pools: readonly (readonly [name: string, pool: PagePool])[]
  /** Of the only component. */
  readonly #prefixes: PrefixCache | undefined
  /** Pages for which somebody waits. */
  #wanted = 0

  /** @param options.prefixCache false: nothing is shared */
  constructor(cache: Pick<ModelCache, 'shape' | 'place'>, options: { prefixCache?: boolean } = {}) {
    const { components } = cache.place
    this.#pools = Object.entries(components).map(([name, { pages }]) => [name, new PagePool(pages)])
    const pageTokens = options.prefixCache === false ? undefined : shareablePageTokens(cache)
    if (pageTokens === undefined) return
    this.#prefixes = new PrefixCache(pageTokens, () => {
      this.#makeRoom(this.#wanted)
    })
  }

  /** Whether beginnings of prompts are shared. */
  get hasPrefixCache(): boolean {
    return this.#prefixes !== undefined
  }

  /** Of all components together. */
  counts(): CacheCounts {
    const cached = this.#prefixes?.idle ?? 0
    const all = { free: 0, cached, leased: -cached, quarantined: 0 }
    for (const [, pool] of this.#pools) {
      const { free, leased, quarantined } = pool.counts()
      all.free += free
      all.leased += leased
      all.quarantined += quarantined
    }
    return all
  }

  /** Forgets all beginnings of prompts. */
  flush(): void {
    this.#prefixes?.flush()
  }

  /**
   * Waits until there are as many pages of each component as a prompt takes beyond its cached beginning. The components are
   * always asked in the same order, so that no two requests wait for what the other one holds; for the same reason, who
   * waits holds no cached pages.
   *
   * @throws KvxError as `PagePool.allocate`; nothing is held then
   */
  async lease(wanted: Wanted, waiting: Waiting): Promise<CacheLease> {
    const prefixes = this.#prefixes
    if (!prefixes) return this.#fresh(wanted.counts(0), waiting)
    const { tokens, shareable } = wanted
    const [entry] = this.#pools
    const [name, pool] = entry ?? ['', new PagePool(0)]
    const prefix = prefixes.match(tokens, shareable)
    const count = wanted.counts(prefix.tokens)[name] ?? 0
    this.#makeRoom(count)
    const lease = pool.tryAllocate(count)
    if (lease) return shared(name, prefixes, { prefix, lease, tokens })
    prefixes.release(prefix)
    return this.#sharedLater(wanted, waiting, name, pool, prefixes)
  }

  async #fresh(counts: Readonly<Record<string, number>>, waiting: Waiting): Promise<CacheLease> {
    const leases: [string, Lease][] = []
    try {
      for (const [name, pool] of this.#pools) {
        const count = counts[name]
        if (count !== undefined) leases.push([name, await pool.allocate(count, waiting)])
      }
    } catch (error) {
      for (const [, lease] of leases) lease.release()
      throw error
    }
    const pages = Object.fromEntries(leases.map(([name, { pages }]) => [name, pages]))
    return {
      pages,
      fresh: pages,
      cachedTokens: 0,
      count: leases.reduce((sum, [, { pages }]) => sum + pages.length, 0),
      keep: () => undefined,
      release: () => {
        for (const [, lease] of leases) lease.release()
      },
      quarantine: (until) => {
        for (const [, lease] of leases) lease.quarantine(until)
      },
    }
  }

  /** Waits for all pages that the prompt could need, and gives back those that are not needed when they have come. */
  async #sharedLater(
    wanted: Wanted,
    waiting: Waiting,
    name: string,
    pool: PagePool,
    prefixes: PrefixCache,
  ): Promise<CacheLease> {
    const most = wanted.counts(0)[name] ?? 0
    this.#wanted += most
    let lease: Lease
    try {
      const granted = pool.allocate(most, waiting)
      this.#makeRoom(this.#wanted)
      lease = await granted
    } finally {
      this.#wanted -= most
    }
    const { tokens, shareable } = wanted
    const prefix = prefixes.match(tokens, shareable)
    const surplus = most - (wanted.counts(prefix.tokens)[name] ?? 0)
    lease.split(lease.pages.subarray(0, surplus)).release()
    return shared(name, prefixes, { prefix, lease, tokens })
  }

  /** Evicts what is needed for so many free pages. */
  #makeRoom(pages: number): void {
    const [entry] = this.#pools
    if (entry) this.#prefixes?.evict(pages - entry[1].counts().free)
  }
}

function shared(
  name: string,
  prefixes: PrefixCache,
  { prefix, lease, tokens }: { prefix: Prefix; lease: Lease; tokens: readonly number[] },
): CacheLease {
  const fresh = lease.pages
  const release = () => {
    prefixes.release(prefix)
  }
  return {
    pages: { [name]: Int32Array.from([...prefix.pages, ...fresh]) },
    fresh: { [name]: fresh },
    cachedTokens: prefix.tokens,
    count: fresh.length,
    keep() {
      if (tokens.length > 1) prefixes.keep(prefix, tokens, fresh, lease)
    },
    release() {
      lease.release()
      release()
    },
    quarantine(until) {
      lease.quarantine(until)
      // Bytes may still be read from them, or a waiting reader find them.
      until.then(release, () => undefined)
    },
  }
}

/**
 * Tokens of a page where the cache of a prompt's beginning is all that is needed to go on behind it: not so with a sliding
 * window, of which only the end is kept, nor with a state that has seen the whole prompt.
 */
function shareablePageTokens({ shape, place }: Pick<ModelCache, 'shape' | 'place'>) {
  const [component, ...others] = shape.components
  if (!component || others.length > 0 || component.window !== undefined) return undefined
  return place.components[component.name]?.pageTokens
}
