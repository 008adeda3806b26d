/** Ending in order: what runs may end, nothing new begins. */
import { once } from 'node:events'
import { KvxError } from '@kvx/contract'
import type { AppContext } from './server.ts'

/** Requests that are worked on, and whether more are taken. */
export class Admission {
  readonly #what: string
  readonly #most: number
  readonly #live = new Set<Promise<unknown>>()
  #draining = false

  /**
   * @param what names the server in refusals, such as `decode worker`
   * @param most requests at a time, those that wait counted
   */
  constructor(what: string, most = Infinity) {
    this.#what = what
    this.#most = most
  }

  get draining(): boolean {
    return this.#draining
  }

  /**
   * Counts a request until its work is done and its answer has left.
   * @throws KvxError `ERR_KVX_DRAINING`, `ERR_KVX_OVER_LIMIT`
   */
  run(c: AppContext, work: () => Promise<Response>): Promise<Response> {
    if (this.#draining) {
      throw new KvxError(
        'ERR_KVX_DRAINING',
        `This ${this.#what} is about to end and takes no new requests: send it to another one, or again in a moment.`,
      )
    }
    if (this.#live.size >= this.#most) {
      throw new KvxError(
        'ERR_KVX_OVER_LIMIT',
        `This ${this.#what} already has ${String(this.#most)} requests, those in its queue counted: try again in a moment.`,
        { phase: 'open' },
      )
    }
    const { outgoing } = c.env
    const answered = outgoing.destroyed ? undefined : once(outgoing, 'close')
    const working = work()
    const live = Promise.allSettled([working, answered]).finally(() => this.#live.delete(live))
    this.#live.add(live)
    return working
  }

  /** Takes nothing new from now on. */
  drain(): void {
    this.#draining = true
  }

  /** Resolves when no request runs any more. */
  async idle(): Promise<void> {
    while (this.#live.size > 0) await Promise.all(this.#live)
  }
}

/** `promise`, or as much of it as happens within `ms`; whether that was all. */
export async function within(ms: number, promise: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => {
      resolve(false)
    }, ms)
  })
  try {
    return await Promise.race([promise.then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}
