/** What the dashboard of one worker shows, as it changes: server-sent events for browsers, and for the router's own dashboard. */
import type { PeerState } from '@kvx/core'
import { openEventStream, type EventStream } from '../http/sse.ts'
import type { AppContext } from '../http/server.ts'
import type { CacheCounts } from '../worker/cache-pools.ts'
import type { RequestRecord } from '../worker/journal.ts'

/** Whose events they are. */
export interface Source {
  readonly name: string
  readonly role: string
}

export interface FeedMessage {
  readonly source: Source
  /** Milliseconds since 1970. */
  readonly at: number
  readonly pages: CacheCounts | undefined
  readonly peers: readonly { instance: string; rank: string; state: string; requests: number }[]
  /** Those that have changed; in the first message all. */
  readonly requests: readonly RequestRecord[]
}

export interface FeedOptions {
  readonly source: Source
  readonly pages?: () => CacheCounts
  readonly peers?: () => readonly PeerState[]
}

/** Milliseconds between two messages: changes in between travel together, and pages and peers are told anew. */
const everyMs = 500

export class Feed {
  readonly #options: FeedOptions
  readonly #streams = new Set<EventStream>()
  readonly #changed = new Set<RequestRecord>()
  #timer: NodeJS.Timeout | undefined

  constructor(options: FeedOptions) {
    this.#options = options
  }

  changed(record: RequestRecord): void {
    if (this.#streams.size > 0) this.#changed.add(record)
  }

  /** @param records all that are known */
  stream(c: AppContext, records: readonly RequestRecord[]): Response {
    const { stream, response } = openEventStream(c)
    this.#streams.add(stream)
    c.env.outgoing.once('close', () => {
      this.#streams.delete(stream)
      if (this.#streams.size === 0) this.close()
    })
    this.#timer ??= setInterval(() => {
      this.#tell()
    }, everyMs).unref()
    void stream.send(this.#message(records))
    return response
  }

  /** Tells nothing more. */
  close(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
    this.#changed.clear()
  }

  #tell(): void {
    const message = this.#message([...this.#changed])
    this.#changed.clear()
    for (const stream of this.#streams) stream.offer(message)
  }

  #message(requests: readonly RequestRecord[]): FeedMessage {
    const { source, pages, peers } = this.#options
    return {
      source,
      at: Date.now(),
      pages: pages?.(),
      peers: (peers?.() ?? []).map(({ instance, rank, state, requests: live }) => {
        const { tp, pp, cp, dp } = rank
        return { instance, rank: `tp${tp} pp${pp} cp${cp} dp${dp}`, state, requests: live }
      }),
      requests,
    }
  }
}
