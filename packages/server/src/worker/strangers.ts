/**
 * Finds the prefill instance that a request names. Until something at an address has shown the deployment's token to
 * this worker it is a stranger's, and whatever fails there looks the same to the client and comes after the same time:
 * else requests would be questions which names, hosts and ports there are.
 */
import { setTimeout as timer } from 'node:timers/promises'
import type { KVReceiver } from '@kvx/core'
import { KvxError, toKvxError } from '@kvx/contract'

/** Milliseconds from a request until it is told its failure: a lookup and a handshake have ended by then. */
const tellMs = 10_000
/** Addresses of strangers that are asked at a time. */
const maxStrangers = 64
/** Addresses that have shown the token; with one more, the one that was used least recently is a stranger's again. */
const maxProven = 4_096

/** Resolves after `ms`; rejects as soon as `signal` is aborted. */
export type Pause = (ms: number, signal: AbortSignal) => Promise<unknown>

export interface Wanted {
  readonly room: bigint
  /** The address that may be asked, as `tcp://address:port`. */
  readonly find: () => Promise<string>
  readonly receive: (from: string) => KVReceiver
  /** Aborted when the client has gone. */
  readonly signal: AbortSignal
}

export class Strangers {
  readonly #pause: Pause
  /** Least recently used first. */
  readonly #proven = new Set<string>()
  /** Strangers that are asked, with the number of requests that wait for each. */
  readonly #asked = new Map<string, number>()
  /** Of requests whose end has not been told: that a room is free again must not tell it earlier. */
  readonly #rooms = new Set<bigint>()

  constructor(pause: Pause = (ms, signal) => timer(ms, undefined, { signal })) {
    this.#pause = pause
  }

  /**
   * Resolves when prefill has answered. Of a stranger every failure is one error after one time, which has the real one
   * as its cause.
   * @throws KvxError `ERR_KVX_ROOM_IN_USE` at once; of a stranger `ERR_KVX_BOOTSTRAP_UNREACHABLE`, else the first cause
   */
  async reach(wanted: Wanted): Promise<KVReceiver> {
    const { room, signal } = wanted
    if (this.#rooms.has(room)) {
      const text = `Room ${String(room)} already belongs to a running request.`
      throw new KvxError('ERR_KVX_ROOM_IN_USE', text, { phase: 'reserve' })
    }
    this.#rooms.add(room)
    const free = () => void this.#rooms.delete(room)
    const over = new AbortController()
    const time = this.#pause(tellMs, AbortSignal.any([signal, over.signal]))
    time.catch(() => undefined)
    try {
      const receiver = await this.#meet(wanted, time)
      receiver.done.then(free, free)
      return receiver
    } catch (cause) {
      free()
      throw cause
    } finally {
      over.abort()
    }
  }

  async #meet({ find, receive, signal }: Wanted, time: Promise<unknown>): Promise<KVReceiver> {
    const late = time.then(() => {
      const text = `Nobody has shown the token within ${String(tellMs)} ms.`
      throw new KvxError('ERR_KVX_BOOTSTRAP_UNREACHABLE', text, { phase: 'bootstrap' })
    })
    late.catch(() => undefined)
    let from: string | undefined
    let known = false
    let asked = false
    let receiver: KVReceiver | undefined
    const leave = () => {
      receiver?.abort('The client closed its connection.')
    }
    signal.addEventListener('abort', leave, { once: true })
    try {
      from = await Promise.race([find(), late])
      known = this.#proven.has(from)
      if (!known) this.#ask(from)
      asked = !known
      receiver = receive(from)
      await (known ? receiver.reached : inTime(receiver, late))
      this.#prove(from)
      return receiver
    } catch (cause) {
      receiver?.abort(toKvxError(cause))
      if (from !== undefined && (known || receiver?.found === true)) {
        this.#prove(from)
        throw cause
      }
      await time
      throw new KvxError(
        'ERR_KVX_BOOTSTRAP_UNREACHABLE',
        'No prefill worker of this deployment answers at the bootstrap_host and bootstrap_port of this request, or decode may not ask there: the log of the decode worker says what happened.',
        { cause, phase: 'bootstrap' },
      )
    } finally {
      signal.removeEventListener('abort', leave)
      if (asked && from !== undefined) this.#leave(from)
    }
  }

  #ask(from: string): void {
    const waiting = this.#asked.get(from) ?? 0
    if (waiting === 0 && this.#asked.size >= maxStrangers) {
      const text = `${from} was not asked: ${String(maxStrangers)} other addresses that have not shown the token are.`
      throw new KvxError('ERR_KVX_OVER_LIMIT', text, { phase: 'bootstrap', peer: from })
    }
    this.#asked.set(from, waiting + 1)
  }

  #leave(from: string): void {
    const waiting = this.#asked.get(from) ?? 0
    if (waiting > 1) this.#asked.set(from, waiting - 1)
    else this.#asked.delete(from)
  }

  #prove(from: string): void {
    this.#proven.delete(from)
    this.#proven.add(from)
    const [oldest] = this.#proven
    if (oldest !== undefined && this.#proven.size > maxProven) this.#proven.delete(oldest)
  }
}

/** Who has shown the token when the time is over has as long as the deadlines say. */
function inTime(receiver: KVReceiver, late: Promise<never>): Promise<void> {
  const longer = late.catch((cause: unknown) => {
    if (receiver.found) return receiver.reached
    throw cause
  })
  return Promise.race([receiver.reached, longer])
}
