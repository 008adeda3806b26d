/** What happens to a worker and to the requests inside it, in the order in which it happens. */
import type { Log } from '@kvx/contract'

export type EventName =
  | 'worker.ready'
  | 'worker.draining'
  | 'request.received'
  // The leg is open: prefill waits for the reserve of decode, decode for pages.
  | 'room.opened'
  | 'room.reserved'
  | 'pages.leased'
  | 'chunk.computed'
  | 'chunk.sent'
  | 'transfer.complete'
  | 'pages.released'
  | 'token'
  | 'request.done'
  | 'request.failed'
  | 'request.cancelled'

export interface WorkerEvent {
  /** Counts the events of the worker: 1, 2, 3, … */
  readonly sequence: number
  /** Milliseconds since 1970, with fractions. */
  readonly at: number
  readonly name: EventName
  /** The request's id, as in the answer: `cmpl-…`. Undefined for what happens to the worker. */
  readonly request: string | undefined
  readonly room: string | undefined
  readonly [field: string]: unknown
}

/** Writes the events of one worker to its log, as debug lines, and to whoever listens in the process. */
export class EventLog {
  readonly #log: Log
  readonly #listeners: readonly ((event: WorkerEvent) => void)[]
  #sequence = 0

  constructor(log: Log, ...listeners: readonly ((event: WorkerEvent) => void)[]) {
    this.#log = log
    this.#listeners = listeners
  }

  /** The events of one request; without one, of the worker. */
  of(request?: string, room?: bigint): Events {
    return (name, fields = {}) => {
      const event: WorkerEvent = {
        ...fields,
        sequence: ++this.#sequence,
        at: performance.timeOrigin + performance.now(),
        name,
        request,
        room: room?.toString(),
      }
      this.#log.debug({ event }, name)
      for (const listener of this.#listeners) listener(event)
    }
  }
}

export type Events = (name: EventName, fields?: Readonly<Record<string, unknown>>) => void
