/** Which messages arrived in which state of their receiver, after which faults. */
import type { DecodeState, Message, PrefillState } from '@kvx/core/protocol'
import type { Wire } from '../network/wire.ts'
import type { AnyRank } from '../ranks/cast.ts'
import { faultNames } from '../shape/faults.ts'

/** Rows `side kind state`, and for each fault how often. */
export class Coverage {
  readonly #rows = new Map<string, Float64Array>()

  count(receiver: AnyRank, wire: Wire, message: Message): void {
    const row =
      receiver.side === 'prefill'
        ? prefillRow(receiver.state, wire.id, message)
        : decodeRow(receiver.state, wire.client.endpoint, message)
    let counts = this.#rows.get(row)
    if (!counts) {
      counts = new Float64Array(faultNames.length)
      this.#rows.set(row, counts)
    }
    const { decode, prefill } = wire
    let mask = wire.mask | decode.slot.mask | prefill.slot.mask
    if ('ep' in message && message.ep !== undefined) {
      const reserve = decode.epochs.get(message.ep)
      if (reserve) mask |= reserve.leg.job.mask
    }
    mask &= ~1
    if (mask === 0) counts[0]!++
    for (let bit = 1; bit < faultNames.length; bit++) if (mask & (1 << bit)) counts[bit]!++
  }

  add(rows: CoverageRows): void {
    for (const [row, counts] of Object.entries(rows)) {
      const known = this.#rows.get(row)
      if (!known) this.#rows.set(row, Float64Array.from(counts))
      else for (let i = 0; i < counts.length; i++) known[i]! += counts[i]!
    }
  }

  rows(): CoverageRows {
    return Object.fromEntries(
      [...this.#rows]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([row, counts]) => [row, [...counts]]),
    )
  }
}

/** Counts in the order of `faultNames`. */
export type CoverageRows = Record<string, number[]>

/** Every row that could be thought of: what can arrive at a side, in every state that it may be in. */
export const universe: readonly {
  readonly side: 'P' | 'D'
  readonly kind: string
  readonly state: string
}[] = [
  ...rowsOf('P', ['hello'], ['new', 'opening', 'open', 'lost', 'another']),
  ...rowsOf('P', ['queued'], ['opening', 'open', 'lost', 'old engine', 'stranger', 'another']),
  ...rowsOf('P', ['ping'], ['opening', 'open', 'lost', 'stranger', 'another']),
  ...rowsOf(
    'P',
    ['reserve', 'pages', 'query', 'abort', 'ack', 'bay', 'scattered'],
    [
      'unknown',
      'parked',
      'paired',
      'complete',
      'failed',
      'over',
      'old engine',
      'stranger',
      'another',
    ],
  ),
  ...rowsOf(
    'D',
    ['welcome', 'refuse(hello)', 'pong'],
    ['connecting', 'greeting', 'ready', 'lost', 'no link', 'old engine', 'another'],
  ),
  // A leg that is complete is over, also while others of its request are not.
  ...rowsOf(
    'D',
    [
      'accept',
      'refuse(reserve)',
      'ready',
      'stage',
      'staged',
      'progress',
      'complete',
      'failed',
      'drained',
      'status',
    ],
    [
      'reserving',
      'parked',
      'paired',
      'verifying',
      'failed',
      'over',
      'no link',
      'old engine',
      'another',
    ],
  ),
]

function rowsOf(side: 'P' | 'D', kinds: readonly string[], states: readonly string[]) {
  return kinds.flatMap((kind) => states.map((state) => ({ side, kind, state })))
}

/** The row of a message that arrives on a connection at prefill, in this state. */
export function prefillRow(state: PrefillState, connection: string, message: Message): string {
  const peer = state.peers.get(message.from)
  const speaks = state.connections.get(connection) === message.from
  const phase = () => {
    if (message.k === 'hello')
      return message.to !== state.self.incarnation ? 'another' : (peer?.link ?? 'new')
    if (message.to !== state.self.incarnation) return 'another'
    if (!peer || !speaks) return 'stranger'
    if ('gen' in message && message.gen !== peer.generation) return 'old engine'
    if (!('ep' in message) || message.ep === undefined) return peer.link
    return (
      peer.transfers.get(message.ep)?.phase ?? (message.ep <= peer.watermark ? 'over' : 'unknown')
    )
  }
  return `P ${message.k} ${phase()}`
}

/** The row of a message that arrives from an address at decode, in this state. */
export function decodeRow(state: DecodeState, endpoint: string, message: Message): string {
  const link = state.links.get(endpoint)
  const phase = () => {
    if (!link) return 'no link'
    if (message.from !== link.incarnation) return 'another'
    if ('gen' in message && message.gen !== state.engine.generation) return 'old engine'
    if (!('ep' in message) || message.ep === undefined) return link.status
    return link.legs.get(message.ep)?.phase ?? 'over'
  }
  const kind =
    message.k === 'refuse'
      ? message.ep === undefined
        ? 'refuse(hello)'
        : 'refuse(reserve)'
      : message.k
  return `D ${kind} ${phase()}`
}
