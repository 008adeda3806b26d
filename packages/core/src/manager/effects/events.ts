/** What the world says, as events of the protocol; the same for both sides. */
import { KvxError, toKvxError, type Log, type Phase } from '@kvx/contract'
import {
  parseMessage,
  readEnvelope,
  type Message,
  type PeerGone,
  type Unreadable,
} from '../../protocol/index.ts'
import type { Engine } from '../engine.ts'

/** A frame as an event: the message that it is, or why it is none. */
export function heard(
  frame: unknown,
  log: Log,
  from: string,
): { type: 'message'; message: Message } | ({ type: 'unreadable' } & Unreadable) {
  try {
    return { type: 'message', message: parseMessage(frame) }
  } catch (cause) {
    const error = toKvxError(cause, 'ERR_KVX_PROTOCOL')
    log.warn({ from, error: error.message }, 'a message was not understood')
    return { type: 'unreadable', envelope: readEnvelope(frame), error }
  }
}

export function listen(engine: Engine, emit: (event: PeerGone) => void): void {
  engine.onPeerGone((generation, reason) => {
    emit({ type: 'peer.gone', generation, reason })
  })
}

/** An error that does not say where it arose, with that. */
export function within(error: KvxError, phase: Phase, peer = error.peer): KvxError {
  if (error.phase !== undefined) return error
  const { code, message, rank } = error
  return new KvxError(code, message, { cause: error, phase, peer, rank })
}

/** The last resort: a reducer that throws must not end the process. */
export function defect(log: Log): (error: unknown) => void {
  return (error) => {
    log.error({ error }, 'an event of the protocol could not be handled')
  }
}
