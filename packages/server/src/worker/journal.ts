/** What is known of the requests of a worker, from its events: of those that live, and of the last that have ended. */
import type { EventName, WorkerEvent } from './events.ts'

/** Names of moments in the life of a request, in milliseconds since it was received. */
export type Moments = Partial<Record<EventName, number>>

/** A piece of the prompt, half-open, with the moments (as `Moments`) at which it was computed and handed to the engine. */
export interface ChunkRecord {
  readonly tokens: readonly [number, number]
  computed?: number
  sent?: number
}

/** One prompt of a request, with its answers. */
export interface RequestRecord {
  readonly request: string
  readonly room: string | undefined
  /** As the client named it in `x-request-id`, and the trace that it belongs to. */
  clientId: string | undefined
  traceparent: string | undefined
  /** Milliseconds since 1970. */
  readonly received: number
  /** Each the first of its name. */
  readonly moments: Moments
  readonly chunks: ChunkRecord[]
  /** Of the prompt. */
  tokens: number
  /** Prompt tokens whose cache was there. */
  cachedTokens: number
  /** Of all answers so far. */
  generated: number
  transfer: Transfer | undefined
  error: { readonly code: string; readonly reason: string | undefined } | undefined
  /** Milliseconds since it was received. */
  ended: number | undefined
}

export interface Transfer {
  readonly bytes: number
  readonly pages: number
  /** From the first write to the last acknowledgement. */
  readonly ms: number
  readonly queueMs: number
  readonly backend: string
  readonly prefixTokens: number | undefined
}

/** Ended requests that are remembered. */
const remembered = 200

export class Journal {
  /** By request and room: an answer to several prompts has a record of each. */
  readonly #live = new Map<string, Map<string, RequestRecord>>()
  readonly #ended: RequestRecord[] = []
  readonly #onChange: (record: RequestRecord, event: WorkerEvent) => void

  /** @param onChange is called after each event of a request, with what is known then */
  constructor(onChange: (record: RequestRecord, event: WorkerEvent) => void = () => undefined) {
    this.#onChange = onChange
  }

  /** The live ones last. */
  records(): RequestRecord[] {
    return [...this.#ended, ...this.live()]
  }

  *live(): Generator<RequestRecord, void> {
    for (const rooms of this.#live.values()) yield* rooms.values()
  }

  observe(event: WorkerEvent): void {
    const { request, room = '', name, at } = event
    if (request === undefined) return
    if (name === 'request.received') {
      const rooms = this.#live.get(request) ?? new Map<string, RequestRecord>()
      this.#live.set(request, rooms.set(room, recordOf(request, event.room, at)))
    }
    const rooms = this.#live.get(request)
    // Pages may be given back after the end.
    if (rooms === undefined) return
    const ends = isEnd(name)
    for (const record of ends ? rooms.values() : [rooms.get(room)]) {
      if (record === undefined) continue
      note(record, event)
      if (ends) this.#ended.push(record)
      this.#onChange(record, event)
    }
    if (ends) this.#live.delete(request)
    this.#ended.splice(0, this.#ended.length - remembered)
  }
}

const recordOf = (request: string, room: string | undefined, received: number): RequestRecord => ({
  ...{ request, room, received, moments: {}, chunks: [] },
  ...{ clientId: undefined, traceparent: undefined },
  ...{ tokens: 0, cachedTokens: 0, generated: 0 },
  ...{ transfer: undefined, error: undefined, ended: undefined },
})

/** One line of the log about a request that has ended. */
export function summary(record: RequestRecord): object {
  const { request, room, clientId, traceparent, tokens, cachedTokens, generated } = record
  const { moments, transfer, error, ended } = record
  const rounded = (ms: number | undefined) =>
    ms === undefined ? undefined : Math.round(ms * 10) / 10
  return {
    ...{ request, room, clientId, traceparent, tokens, cachedTokens, generated },
    ms: rounded(ended),
    firstTokenMs: rounded(moments.token),
    ...(transfer && {
      bytes: transfer.bytes,
      wireMs: rounded(transfer.ms),
      queueMs: rounded(transfer.queueMs),
      backend: transfer.backend,
    }),
    code: error?.code,
  }
}

export const isEnd = (name: EventName) =>
  name === 'request.done' || name === 'request.failed' || name === 'request.cancelled'

function note(record: RequestRecord, event: WorkerEvent): void {
  const since = event.at - record.received
  record.moments[event.name] ??= since
  switch (event.name) {
    case 'request.received':
      record.tokens = Number(event.tokens)
      record.clientId = event.clientId as string | undefined
      record.traceparent = event.traceparent as string | undefined
      return
    case 'pages.leased':
      record.cachedTokens = Number(event.cachedTokens ?? event.prefixTokens ?? 0)
      return
    case 'chunk.computed':
    case 'chunk.sent': {
      const tokens = event.tokens as readonly [number, number]
      let chunk = record.chunks.find(({ tokens: [first] }) => first === tokens[0])
      if (!chunk) record.chunks.push((chunk = { tokens }))
      chunk[event.name === 'chunk.sent' ? 'sent' : 'computed'] = since
      return
    }
    case 'transfer.complete':
      record.transfer = event as unknown as Transfer
      return
    case 'token':
      record.generated++
      return
    case 'request.done':
    case 'request.cancelled':
    case 'request.failed':
      record.ended = since
      if (event.name === 'request.failed') {
        const { code, reason } = event as { code?: string; reason?: string }
        record.error = { code: code ?? 'ERR_KVX_INTERNAL', reason }
      }
      return
    default:
  }
}
