/**
 * Cells of the coverage table that no schedule may reach, each with its reason. Reaching one fails a run.
 * `*` stands for every kind, state or fault.
 */
interface Cell {
  readonly side: 'P' | 'D'
  readonly kinds: readonly string[]
  readonly states: readonly string[]
  readonly faults?: readonly string[]
  readonly reason: string
}

/** Kinds from prefill that concern an epoch. */
const ofTransfers = [
  'accept',
  'refuse(reserve)',
  'ready',
  'progress',
  'complete',
  'failed',
  'drained',
  'status',
]

export const unreachable: readonly Cell[] = [
  {
    side: 'P',
    kinds: ['hello', 'ping'],
    states: ['*'],
    faults: ['abort'],
    reason: 'It is about no request, so that no request of it can have been aborted.',
  },
  {
    side: 'P',
    kinds: ['queued'],
    states: ['*'],
    faults: ['abort'],
    reason: 'It names rooms and no epoch; what is counted here is the abort of an epoch.',
  },
  {
    side: 'P',
    kinds: ['queued'],
    states: ['lost', 'stranger'],
    faults: ['none'],
    reason:
      'It is sent after the welcome on the same connection; only a fault makes prefill forget who speaks there.',
  },
  {
    side: 'D',
    kinds: ['welcome', 'refuse(hello)', 'pong'],
    states: ['*'],
    faults: ['abort'],
    reason: 'It is about no request, so that no request of it can have been aborted.',
  },
  {
    side: 'P',
    kinds: ['*'],
    states: ['another'],
    faults: ['none'],
    reason: 'Another process serves at an address only after a restart.',
  },
  {
    side: 'D',
    kinds: ['refuse(hello)'],
    states: ['another'],
    faults: ['none'],
    reason: 'Another process serves at an address only after a restart.',
  },
  {
    side: 'D',
    kinds: ['welcome', 'pong', ...ofTransfers],
    states: ['another'],
    reason:
      'To a hello for its predecessor a process answers only refuse; a link to the process itself begins with a new client.',
  },
  {
    side: 'P',
    kinds: ['hello', 'ping'],
    states: ['lost'],
    faults: ['none'],
    reason: 'A peer is lost by silence, by a restart, or because no engine connects: a fault each.',
  },
  {
    side: 'D',
    kinds: ['welcome', 'refuse(hello)', 'pong'],
    states: ['lost'],
    faults: ['none'],
    reason: 'A peer is lost by silence, by a restart, or because no engine connects: a fault each.',
  },
  {
    side: 'P',
    kinds: ['reserve'],
    states: ['parked', 'paired', 'complete', 'failed', 'over'],
    faults: ['none'],
    reason: 'A reserve is sent once; a second copy of it needs a reconnect.',
  },
  {
    side: 'P',
    kinds: ['pages', 'query', 'abort'],
    states: ['unknown'],
    faults: ['none'],
    reason: 'It follows the reserve on the same connection; to come alone it needs a reconnect.',
  },
  {
    side: 'P',
    kinds: ['reserve', 'pages', 'query', 'abort', 'ack'],
    states: ['stranger'],
    faults: ['none'],
    reason:
      'It is sent after the welcome on the same connection; only a fault makes prefill forget who speaks there.',
  },
  {
    side: 'P',
    kinds: ['*'],
    states: ['old engine'],
    faults: ['none'],
    reason: 'A generation has a predecessor only after an engine was replaced.',
  },
  {
    side: 'D',
    kinds: ['welcome', ...ofTransfers],
    states: ['old engine'],
    faults: ['none'],
    reason: 'A generation has a predecessor only after an engine was replaced.',
  },
  {
    side: 'D',
    kinds: ['*'],
    states: ['no link'],
    reason: 'A link is forgotten together with its client, which delivers nothing afterwards.',
  },
  {
    side: 'P',
    kinds: ['ack'],
    states: ['unknown'],
    reason:
      'Decode acknowledges only what prefill has said of an epoch, and the hello of a forgotten peer names its highest epoch.',
  },
  {
    side: 'P',
    kinds: ['ack'],
    states: ['parked', 'paired'],
    reason: 'Decode acknowledges only an outcome, and an outcome is final.',
  },
  {
    side: 'D',
    kinds: ['pong'],
    states: ['old engine'],
    reason: 'A pong names no generation.',
  },
]

/** Why a cell cannot be reached, or undefined. */
export function reasonOf(
  side: string,
  kind: string,
  state: string,
  fault: string,
): string | undefined {
  return unreachable.find(
    (cell) =>
      cell.side === side &&
      has(cell.kinds, kind) &&
      has(cell.states, state) &&
      (cell.faults === undefined || has(cell.faults, fault)),
  )?.reason
}

function has(list: readonly string[], name: string): boolean {
  return list.includes('*') || list.includes(name)
}
