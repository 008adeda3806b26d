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
  'stage',
  'staged',
  'progress',
  'complete',
  'failed',
  'drained',
  'status',
]

const inOrder =
  'On one connection prefill says each of these once, and decode hears them in order: what comes late or again has come over two connections.'

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
  {
    side: 'P',
    kinds: ['hello'],
    states: ['opening', 'open'],
    faults: ['none'],
    reason:
      'A connection begins with one hello; another follows a reconnect, a lost peer or a new engine.',
  },
  {
    side: 'P',
    kinds: ['queued'],
    states: ['opening'],
    faults: ['none'],
    reason:
      'It is sent after the welcome, for which the engine was connected; a fault makes it connect again.',
  },
  {
    side: 'P',
    kinds: ['ping'],
    states: ['opening'],
    faults: ['none'],
    reason: 'Only a fault makes an engine of these worlds connect for longer than a ping takes.',
  },
  {
    side: 'D',
    kinds: ['pong'],
    states: ['greeting'],
    faults: ['none'],
    reason: 'Only a fault makes an engine of these worlds connect for longer than a ping takes.',
  },
  {
    side: 'P',
    kinds: ['ping', 'bay', 'scattered'],
    states: ['stranger'],
    faults: ['none'],
    reason:
      'It is sent after the hello on the same connection; only a fault makes prefill forget who speaks there.',
  },
  {
    side: 'P',
    kinds: ['queued'],
    states: ['old engine'],
    reason:
      'On its connection it comes before the hello of the next engine, with which every earlier connection speaks for nobody; and no transport repeats it.',
  },
  {
    side: 'P',
    kinds: ['queued'],
    states: ['another'],
    reason:
      'It is sent to who has said welcome on the same connection; and no transport repeats it.',
  },
  {
    side: 'P',
    kinds: ['query'],
    states: ['over'],
    faults: ['none'],
    reason:
      'Prefill forgets what decode has acknowledged, after which decode asks no more, or has not for the linger.',
  },
  {
    side: 'P',
    kinds: ['bay', 'scattered'],
    states: ['unknown', 'parked'],
    reason:
      'It answers what prefill has said of a load, which it says only of what is paired; and the hello of a forgotten peer names its highest epoch.',
  },
  {
    side: 'P',
    kinds: ['bay', 'scattered'],
    states: ['complete', 'over'],
    faults: ['none'],
    reason:
      'Prefill completes when every load has ended, and forgets what decode has acknowledged: on one connection this comes before.',
  },
  {
    side: 'D',
    kinds: ['welcome', 'refuse(hello)', 'pong'],
    states: ['connecting'],
    faults: ['none'],
    reason: 'Without a fault a connection stays.',
  },
  {
    side: 'D',
    kinds: ['welcome'],
    states: ['ready'],
    faults: ['none'],
    reason:
      'It answers a hello, of which there is one for each connection, lost peer and new engine.',
  },
  {
    side: 'D',
    kinds: ['refuse(hello)'],
    states: ['greeting', 'ready', 'old engine'],
    faults: ['none'],
    reason:
      'Refused is who is meant for an earlier process, was forgotten, or cannot be connected: a fault each.',
  },
  {
    side: 'D',
    kinds: ['accept'],
    states: ['paired', 'verifying', 'over'],
    faults: ['none'],
    reason: inOrder,
  },
  {
    side: 'D',
    kinds: ['refuse(reserve)'],
    states: ['parked', 'paired', 'verifying', 'over'],
    faults: ['none'],
    reason: inOrder,
  },
  {
    side: 'D',
    kinds: ['ready', 'stage', 'progress', 'complete'],
    states: ['reserving', 'parked', 'verifying', 'over'],
    faults: ['none'],
    reason: inOrder,
  },
  {
    side: 'D',
    kinds: ['staged'],
    states: ['verifying', 'over'],
    faults: ['none'],
    reason: inOrder,
  },
  {
    side: 'D',
    kinds: ['failed', 'status'],
    states: ['reserving'],
    faults: ['none'],
    reason: inOrder,
  },
  {
    side: 'D',
    kinds: ['staged'],
    states: ['reserving', 'parked'],
    reason: 'It follows the bay that decode has given, for which its leg counts as paired.',
  },
  {
    side: 'D',
    kinds: ['drained'],
    states: ['reserving', 'parked', 'paired', 'verifying'],
    faults: ['none'],
    reason: 'It follows the failure, unless prefill had lost its peer in between.',
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
