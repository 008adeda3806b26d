/** In which phase a request was at a moment, told from the events that its workers have logged. */

export const phases = [
  'before hello',
  'parked',
  'reserved',
  'between chunks',
  'after the last write',
  'after complete',
] as const
export type Phase = (typeof phases)[number]

/** One line of a worker's debug log that is about a request. */
export interface LoggedEvent {
  readonly name: string
  readonly request: string
  readonly room?: string
  /** Milliseconds since 1970, by the clock of the machine. */
  readonly time: number
  readonly tokens?: unknown
  readonly position?: unknown
}

export interface Recorded {
  /** Of the room, from the prefill worker. */
  readonly prefill: readonly LoggedEvent[]
  /** Of the room, from the decode worker. */
  readonly decode: readonly LoggedEvent[]
  /** Whether the two processes had said hello to each other before. */
  readonly greeted: boolean
}

/**
 * `undefined` when the request had ended, or when its legs were still on their way: one had arrived
 * and the other was neither there nor known to be missing.
 */
export function recordedPhase({ prefill, decode, greeted }: Recorded): Phase | undefined {
  const has = (events: readonly LoggedEvent[], ...names: readonly string[]) =>
    events.some(({ name }) => names.includes(name))
  if (has(decode, 'request.done', 'request.failed', 'request.cancelled')) return undefined
  if (has(decode, 'transfer.complete') || has(prefill, 'transfer.complete')) return 'after complete'
  if (has(prefill, 'request.failed', 'request.cancelled')) return undefined
  if (lastChunk(prefill)) return 'after the last write'
  if (has(prefill, 'chunk.sent')) return 'between chunks'
  if (has(prefill, 'room.reserved')) return 'reserved'
  const [decodeIsHere, prefillIsHere] = [decode, prefill].map((one) => has(one, 'request.received'))
  if (!greeted) return decodeIsHere === true || prefillIsHere === true ? 'before hello' : undefined
  // Accepted by prefill, where the other leg has not arrived; or the other way round.
  if (has(decode, 'room.reserved')) return prefillIsHere === true ? undefined : 'parked'
  return prefillIsHere === true && decodeIsHere !== true ? 'parked' : undefined
}

/** Whether these events of a room's prefill leg end with the write of its last token. */
export function lastChunk(prefill: readonly LoggedEvent[]): boolean {
  const prompt = prefill.find(({ name }) => name === 'request.received')?.tokens
  return prefill.some(
    ({ name, tokens }) => name === 'chunk.sent' && Array.isArray(tokens) && tokens[1] === prompt,
  )
}
