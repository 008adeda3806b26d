/**
 * The decode side of the protocol: `step(state, event, now)` changes the state and returns what to do.
 *
 *     link, bays  <  leg  <  request  <  host, loss, stage  <  fence, route  <  source, recycle  <  step
 *
 * A file imports only those before it. What a link or a leg has to tell its requests it leaves as news, which is
 * delivered here when the handler of the event has returned.
 */
import { count } from '../keys.ts'
import { noGeneration, type Message, type MessageOf } from '../messages.ts'
import { watchBays } from './bays.ts'
import { onFenced, onFenceFailed, watchFences } from './fence.ts'
import { onHostAbort, onProvide, onReserve } from './host.ts'
import {
  onAccept,
  onComplete,
  onDrained,
  onFailed,
  onProgress,
  onReady,
  onRefused,
  onStatus,
} from './leg.ts'
import { onLinkDown, onLinkUp, onRefusedHello, onRefusedPing, onWelcome } from './link.ts'
import { loseLink, onPeerGone, watchLink } from './loss.ts'
import { onEngineFailed, onRecycled, watchQuarantine } from './recycle.ts'
import {
  failRequest,
  onAccepted,
  onLanded,
  onLinkReady,
  onPagesWanted,
  onQueued,
  onSent,
  onVerified,
  settleIfDrained,
  watchRequest,
} from './request.ts'
import { onPublished } from './route.ts'
import { about, ask, rejectEpoch } from './send.ts'
import { onScattered, onStage, onStaged } from './stage.ts'
import { onReceive, onSourceFailed, onSourceRead, onStranger, watchSource } from './source.ts'
import type {
  DecodeEffect,
  DecodeEvent,
  DecodeState,
  DecodeStep,
  Leg,
  LegNews,
  Link,
  LinkNews,
} from './state.ts'

export function stepDecode(state: DecodeState, event: DecodeEvent, now: number): DecodeEffect[] {
  const step: DecodeStep = { state, now, out: [], news: [] }
  dispatch(step, event)
  for (const news of step.news) {
    if ('link' in news) tellOfLink(step, news)
    else tellOfLeg(step, news)
  }
  return step.out
}

function tellOfLink(step: DecodeStep, news: LinkNews): void {
  if (news.happened === 'ready') onLinkReady(step, news.link)
  else loseLink(step, news.link, news.error)
}

function tellOfLeg(step: DecodeStep, news: LegNews): void {
  const { leg } = news
  const { request } = leg
  switch (news.happened) {
    case 'accepted':
      onAccepted(step, request)
      return
    case 'wants pages':
      onPagesWanted(step, leg)
      return
    case 'landed':
      onLanded(step, leg, news.units)
      return
    case 'sent':
      onSent(step, leg)
      return
    case 'queued':
      onQueued(step, request)
      return
    case 'failed':
      failRequest(step, request, news.error)
      return
    case 'drained':
      settleIfDrained(step, request)
      return
  }
}

function dispatch(step: DecodeStep, event: DecodeEvent): void {
  switch (event.type) {
    case 'message':
      onMessage(step, event.endpoint, event.message)
      return
    case 'unreadable':
      onUnreadable(step, event)
      return
    case 'unsent':
      onUnsent(step, event)
      return
    case 'link.up':
      onLinkUp(step, event.endpoint)
      return
    case 'link.down':
      onLinkDown(step, event)
      return
    case 'source.read':
      onSourceRead(step, event)
      return
    case 'source.failed':
      onSourceFailed(step, event)
      return
    case 'source.published':
      onPublished(step, event)
      return
    case 'host.receive':
      onReceive(step, event)
      return
    case 'host.reserve':
      onReserve(step, event)
      return
    case 'host.provide':
      onProvide(step, event)
      return
    case 'host.abort':
      onHostAbort(step, event.request, event.reason)
      return
    case 'verified':
      onVerified(step, event)
      return
    case 'scattered':
      onScattered(step, event)
      return
    case 'peer.gone':
      onPeerGone(step, event)
      return
    case 'fenced':
      onFenced(step, event.writer)
      return
    case 'fence.failed':
      onFenceFailed(step, event.writer)
      return
    case 'engine.recycled':
      onRecycled(step, event.engine)
      return
    case 'engine.failed':
      onEngineFailed(step, event.error)
      return
    case 'tick':
      onTick(step)
      return
  }
}

function onTick(step: DecodeStep): void {
  const { links, requests, sources } = step.state
  for (const link of links.values()) watchLink(step, link)
  watchFences(step)
  watchBays(step)
  for (const request of requests.values()) watchRequest(step, request)
  for (const source of sources.values()) watchSource(step, source)
  watchQuarantine(step)
}

/** Counted. A prefill of another version is not waited for: what it answers to hello says enough. */
function onUnreadable(step: DecodeStep, event: DecodeEvent & { type: 'unreadable' }): void {
  const { endpoint, envelope, error } = event
  const { dropped, links, self } = step.state
  count(dropped, error.code)
  const link = links.get(endpoint)
  if (error.code !== 'ERR_KVX_VERSION_MISMATCH' || link?.status !== 'greeting') return
  if (envelope.from !== link.incarnation || envelope.to !== self.incarnation) return
  loseLink(step, link, about(link, error.code, 'hello', `cannot be talked to: ${error.message}`))
}

function onUnsent(step: DecodeStep, event: DecodeEvent & { type: 'unsent' }): void {
  const leg = step.state.links.get(event.endpoint)?.legs.get(event.epoch)
  if (leg) failRequest(step, leg.request, event.error)
}

function onMessage(step: DecodeStep, endpoint: string, message: Message): void {
  const { state } = step
  const link = state.links.get(endpoint)
  if (!link || message.to !== state.self.incarnation) {
    count(state.dropped, 'another incarnation')
    return
  }
  if (message.from !== link.incarnation) {
    onStranger(step, link, message)
    return
  }
  if (message.k === 'refuse' && isOfPing(message)) {
    onRefusedPing(link)
    return
  }
  if ('gen' in message && message.gen !== state.engine.generation) {
    count(state.dropped, 'generation')
    return
  }
  link.heard = step.now
  if (message.k === 'pong') return
  if (message.k === 'welcome') {
    onWelcome(step, link, message)
    return
  }
  if (message.k === 'refuse' && message.ep === undefined) {
    onRefusedHello(step, link, message)
    return
  }
  if (!('ep' in message) || message.ep === undefined) {
    count(state.dropped, `${message.k} at decode`)
    return
  }
  const leg = link.legs.get(message.ep)
  if (leg) onLegMessage(step, leg, message)
  else onOverMessage(step, link, { ...message, ep: message.ep })
}

/** Of what is said to prefill only a ping names no generation. */
function isOfPing({ code, gen }: MessageOf<'refuse'>): boolean {
  return code === 'ERR_KVX_INVALID_STATE' && gen === noGeneration
}

/** An epoch that was never given, or to another prefill rank. */
function isAnothers({ state }: DecodeStep, link: Link, epoch: number): boolean {
  if (epoch > state.epoch) return true
  for (const other of state.links.values()) if (other !== link && other.legs.has(epoch)) return true
  return false
}

function onLegMessage(step: DecodeStep, leg: Leg, message: Message): void {
  switch (message.k) {
    case 'accept':
      onAccept(step, leg, message.state, message.consumed)
      return
    case 'ready':
      onReady(step, leg)
      return
    case 'stage':
      onStage(step, leg, message)
      return
    case 'staged':
      onStaged(step, leg, message)
      return
    case 'progress':
      onProgress(step, leg, message.units)
      return
    case 'complete':
      onComplete(step, leg, message)
      return
    case 'failed':
      onFailed(step, leg, message)
      return
    case 'refuse':
      onRefused(step, leg, message)
      return
    case 'status':
      onStatus(step, leg, message)
      return
    case 'drained':
      onDrained(step, leg)
      return
    default:
      count(step.state.dropped, `${message.k} at decode`)
  }
}

/** Prefill repeats an outcome until it knows that it was received. */
function onOverMessage(step: DecodeStep, link: Link, message: Message & { ep: number }): void {
  if (isAnothers(step, link, message.ep)) {
    count(step.state.dropped, 'epoch')
    if (message.k === 'complete' || message.k === 'failed') rejectEpoch(step, link, message.ep)
    return
  }
  const repeated =
    message.k === 'complete' || message.k === 'failed'
      ? message
      : message.k === 'status'
        ? message.outcome
        : undefined
  if (repeated) ask(step, link, repeated.ep, 'ack')
  else count(step.state.dropped, 'over')
}
