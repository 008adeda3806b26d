/**
 * The prefill side of the protocol: `step(state, event, now)` changes the state and returns what to do.
 *
 *     peer, cut  <  piece  <  transfer  <  room, queue, write, complete  <  settle  <  sender
 *                  <  finish, draining, loss, load  <  reserve, hello, recycle  <  step
 *
 * A file imports only those before it. What a transfer has to tell its request it leaves as news, which is delivered
 * here when the handler of the event has returned.
 */
import { count, roomKey } from '../keys.ts'
import { noGeneration, type Message } from '../messages.ts'
import { onDigests } from './complete.ts'
import { onDrain } from './draining.ts'
import { onFinish, onProvided } from './finish.ts'
import { onHello, onLinkFailed, onLinkOpen } from './hello.ts'
import { onPeerGone, watchPeer } from './loss.ts'
import { onBay, onGathered, onScattered, watchLoad } from './load.ts'
import { onPing, speaker } from './peer.ts'
import { onPieceDone, pumpAll } from './piece.ts'
import { onHostQueued, onQueued } from './queue.ts'
import { onEngineFailed, onRecycled, watchStuck } from './recycle.ts'
import { onReserve } from './reserve.ts'
import { refuse } from './send.ts'
import {
  failTransfer,
  forgetEnded,
  onAcked,
  onDigestsFailed,
  onHostAbort,
  onHostReady,
  onPieceFailed,
  onSend,
  watchPiece,
  watchSender,
} from './sender.ts'
import { onPieceSettled } from './settle.ts'
import type {
  PrefillEffect,
  PrefillEvent,
  PrefillNews,
  PrefillState,
  PrefillStep,
} from './state.ts'
import { onAbort, onAck, onPages, onQuery, watchTransfer } from './transfer.ts'
import { onWrite } from './write.ts'

export function stepPrefill(
  state: PrefillState,
  event: PrefillEvent,
  now: number,
): PrefillEffect[] {
  const step: PrefillStep = { state, now, out: [], news: [], isBayFree: false }
  dispatch(step, event)
  deliver(step)
  if (step.isBayFree) pumpAll(step)
  return step.out
}

function deliver(step: PrefillStep): void {
  for (const news of step.news) tell(step, news)
  step.news.length = 0
}

function tell(step: PrefillStep, news: PrefillNews): void {
  switch (news.happened) {
    case 'failed':
      failTransfer(step, news.transfer, news.error, news.told)
      return
    case 'provided':
      onProvided(step, news.transfer)
      return
    case 'acked':
      onAcked(step, news.transfer)
      return
  }
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
      onHostReady(step, event.sender)
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
    case 'load.gathered':
      onGathered(step, event)
      return
    case 'digests':
      onDigests(step, event)
      return
    case 'digests.failed':
      onDigestsFailed(step, event.sender, event.error)
      return
    case 'engine.recycled':
      onRecycled(step, event.generation)
      return
    case 'engine.failed':
      onEngineFailed(step, event.error)
      return
    case 'tick':
      onTick(step)
      return
  }
}

function onTick(step: PrefillStep): void {
  const { peers, pieces, senders } = step.state
  forgetEnded(step)
  for (const sender of senders.values()) watchSender(step, sender)
  for (const peer of peers.values()) {
    for (const transfer of peer.transfers.values()) {
      watchTransfer(step, transfer)
      // What has happened to one may end the next.
      deliver(step)
    }
  }
  for (const peer of peers.values()) watchPeer(step, peer)
  for (const piece of pieces.values()) {
    watchPiece(step, piece)
    watchLoad(step, piece)
  }
  watchStuck(step)
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
  const generation = envelope.gen ?? peers.get(incarnation)?.generation ?? noGeneration
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
      onPages(step, peer, message)
      return
    case 'bay':
      onBay(step, peer, message)
      return
    case 'scattered':
      onScattered(step, peer, message)
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
