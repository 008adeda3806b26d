/** The prefill side of the protocol: `step(state, event, now)` changes the state and answers what to do. */
import { count, roomKey } from '../keys.ts'
import type { Message } from '../messages.ts'
import {
  onHello,
  onLinkFailed,
  onLinkOpen,
  onPeerGone,
  onPing,
  speaker,
  watchPeers,
} from './peers.ts'
import { onPieceDone, onPieceFailed, onPieceSettled, watchPieces } from './pieces.ts'
import {
  onChecksums,
  onChecksumsFailed,
  onFinish,
  onHostAbort,
  onHostQueued,
  onProvided,
  onQueued,
  onReady,
  onSend,
  onWrite,
  watchSenders,
} from './senders.ts'
import { onEngineFailed, onRecycled, watchStuck } from './recycle.ts'
import { refuse } from './send.ts'
import type { PrefillEffect, PrefillEvent, PrefillState, PrefillStep } from './state.ts'
import { onAbort, onAck, onDrain, onQuery, onReserve, watchTransfers } from './transfers.ts'

export function stepPrefill(
  state: PrefillState,
  event: PrefillEvent,
  now: number,
): PrefillEffect[] {
  const step: PrefillStep = { state, now, out: [] }
  dispatch(step, event)
  return step.out
}

function dispatch(step: PrefillStep, event: PrefillEvent): void {
  switch (event.type) {
    case 'message':
      onMessage(step, event.connection, event.message)
      return
    case 'unreadable':
      onUnreadable(step, event)
      return
    case 'disconnected':
      // Connection loss alone changes nothing until the peer-silent deadline.
      step.state.connections.delete(event.connection)
      return
    case 'link.open':
      onLinkOpen(step, event)
      return
    case 'link.failed':
      onLinkFailed(step, event)
      return
    case 'peer.gone':
      onPeerGone(step, event)
      return
    case 'host.send':
      onSend(step, event)
      return
    case 'host.ready':
      onReady(step, event.sender)
      return
    case 'host.queued':
      onHostQueued(step, event.sender, event.queued)
      return
    case 'host.write':
      onWrite(step, event)
      return
    case 'host.finish':
      onFinish(step, event)
      return
    case 'host.abort':
      onHostAbort(step, event.sender, event.reason)
      return
    case 'host.drain':
      onDrain(step, event)
      return
    case 'piece.done':
      onPieceDone(step, event.piece)
      return
    case 'piece.failed':
      onPieceFailed(step, event.piece, event.error)
      return
    case 'piece.settled':
      onPieceSettled(step, event.piece)
      return
    case 'checksums':
      onChecksums(step, event)
      return
    case 'checksums.failed':
      onChecksumsFailed(step, event.sender, event.error)
      return
    case 'engine.recycled':
      onRecycled(step, event.generation)
      return
    case 'engine.failed':
      onEngineFailed(step, event.error)
      return
    case 'tick':
      watchSenders(step)
      watchTransfers(step)
      watchPeers(step)
      watchPieces(step)
      watchStuck(step)
      return
  }
}

/**
 * Counted and answered, and nothing else comes of it. One frame is answered by one short message at most, a
 * `refuse` by none: two sides that do not understand each other must not go on refusing for ever. Without an
 * epoch, as a refused epoch would count as drained.
 */
function onUnreadable(step: PrefillStep, event: PrefillEvent & { type: 'unreadable' }): void {
  const { connection, envelope, error } = event
  const { connections, dropped, peers } = step.state
  count(dropped, error.code)
  const incarnation = envelope.from ?? connections.get(connection)
  if (envelope.k === 'refuse' || incarnation === undefined) return
  const generation = envelope.gen ?? peers.get(incarnation)?.generation ?? '0'.repeat(32)
  refuse(step, { connection, incarnation }, generation, undefined, error)
}

function onMessage(step: PrefillStep, connection: string, message: Message): void {
  if (message.k === 'hello') {
    onHello(step, connection, message)
    return
  }
  if (message.to !== step.state.self.incarnation) {
    count(step.state.dropped, 'another incarnation')
    return
  }
  const peer = speaker(step, connection, message)
  if (!peer) return
  switch (message.k) {
    case 'reserve':
      onReserve(step, peer, message, roomKey(message.room, message.index))
      return
    case 'queued':
      onQueued(step, peer, message)
      return
    case 'pages':
      onProvided(step, peer, message)
      return
    case 'query':
      onQuery(step, peer, message.ep)
      return
    case 'abort':
      onAbort(step, peer, message)
      return
    case 'ack':
      onAck(step, peer, message.ep)
      return
    case 'ping':
      onPing(step, peer)
      return
    default:
      count(step.state.dropped, `${message.k} at prefill`)
  }
}
