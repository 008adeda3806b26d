/** A leg: the part of a request that one prefill rank sends, from its reserve until nothing of it can land any more. */
import { KvxError } from '@kvx/contract'
import { toldError } from '../keys.ts'
import { packPages, type MessageOf, type PageLists } from '../messages.ts'
import { freeBays } from './bays.ts'
import { auxObjection, manifestObjection, promptOf } from './manifest.ts'
import { about, ask, sendAbort, sendTo } from './send.ts'
import type { DecodeState, DecodeStep, Leg, Link } from './state.ts'

/** A reserve whose epoch was over before it began is tried so often. */
const maxTries = 3

export function reserve(step: DecodeStep, leg: Leg): void {
  const { request, link } = leg
  const { destination } = request
  if (!destination) return
  leg.epoch = ++step.state.epoch
  leg.phase = 'reserving'
  leg.heard = step.now
  leg.drained = false
  leg.tries++
  link.legs.set(leg.epoch, leg)
  sendTo(step, link, {
    k: 'reserve',
    gen: step.state.engine.generation,
    ep: leg.epoch,
    room: request.room,
    index: request.index,
    tokens: request.tokens,
    digest: request.digest,
    prefix: destination.prefixTokens,
    ...(destination.pages && { pages: pagesFor(link, destination.pages) }),
    digests: step.state.self.verify,
  })
}

/** The epoch was over before its reserve arrived: nothing happened, so a new one may be tried. */
function tryAgain(step: DecodeStep, leg: Leg): boolean {
  if (leg.phase !== 'reserving' || leg.request.error || leg.tries >= maxTries) return false
  leg.link.legs.delete(leg.epoch)
  reserve(step, leg)
  return true
}

export function sendPages(step: DecodeStep, leg: Leg): void {
  const { destination } = leg.request
  if (leg.epoch === 0 || !destination?.pages) return
  sendTo(step, leg.link, {
    k: 'pages',
    gen: step.state.engine.generation,
    ep: leg.epoch,
    pages: pagesFor(leg.link, destination.pages),
  })
}

/** Of what a prefill rank has bytes for. */
function pagesFor({ pairing }: Link, pages: PageLists): Record<string, Uint8Array> {
  const wanted = Object.entries(pages).filter(([name]) => pairing?.layers.has(name))
  return packPages(Object.fromEntries(wanted))
}

/** What prefill says of a leg that is paired tells this as well: its `accept` may have been lost. */
export function onAccept(
  step: DecodeStep,
  leg: Leg,
  state: 'parked' | 'paired',
  consumed = false,
): void {
  leg.heard = step.now
  leg.consumed = consumed
  if (leg.request.error) return
  if (leg.phase === 'reserving' || (leg.phase === 'parked' && state === 'paired')) leg.phase = state
  step.news.push({ leg, happened: 'accepted' })
}

export function onReady(step: DecodeStep, leg: Leg): void {
  if (leg.request.error) return
  onAccept(step, leg, 'paired')
  step.news.push({ leg, happened: 'wants pages' })
}

/** Something has landed; it may be some layers only. */
export function onProgress(step: DecodeStep, leg: Leg, units: number): void {
  if (leg.request.error) return
  onAccept(step, leg, 'paired')
  step.news.push({ leg, happened: 'landed', units })
}

export function onComplete(step: DecodeStep, leg: Leg, message: MessageOf<'complete'>): void {
  const { request } = leg
  if (leg.phase === 'verifying' || leg.phase === 'failed' || request.error) return
  const error = manifestObjection(step.state.self, leg, message) ?? auxObjection(leg, message)
  if (error) {
    step.news.push({ leg, happened: 'failed', error })
    return
  }
  leg.outcome = message
  onAccept(step, leg, 'paired')
  step.news.push({ leg, happened: 'sent' })
}

/** Has what has landed compared with prefill's digests. Returns false when there are none to compare with. */
export function verify(step: DecodeStep, leg: Leg): boolean {
  const { request, link, outcome } = leg
  const digests = outcome?.manifest.digests
  if (!step.state.self.verify || !digests || !link.pairing) return false
  leg.phase = 'verifying'
  step.out.push({
    do: 'verify',
    request: request.id,
    epoch: leg.epoch,
    pairing: link.pairing,
    prompt: promptOf(request),
    destination: request.destination?.pages ?? {},
    digests,
  })
  return true
}

/** Prefill said `complete` after its last write had settled, so this leg is drained as well. */
export function complete(step: DecodeStep, leg: Leg): void {
  leg.phase = 'complete'
  leg.drained = true
  leg.link.legs.delete(leg.epoch)
  ask(step, leg.link, leg.epoch, 'ack')
}

export function onFailed(step: DecodeStep, leg: Leg, message: MessageOf<'failed'>): void {
  ask(step, leg.link, leg.epoch, 'ack')
  if (leg.phase === 'failed') return
  leg.phase = 'failed'
  leg.failedAt = step.now
  step.news.push({ leg, happened: 'failed', error: toldError(message, leg.link) })
}

export function onRefused(step: DecodeStep, leg: Leg, message: MessageOf<'refuse'>): void {
  if (message.code === 'ERR_KVX_STALE' && tryAgain(step, leg)) return
  endDrained(step, leg, toldError(message, leg.link))
}

export function onStatus(step: DecodeStep, leg: Leg, message: MessageOf<'status'>): void {
  const { outcome, state, units } = message
  leg.heard = step.now
  if (outcome?.k === 'complete') onComplete(step, leg, outcome)
  else if (outcome?.k === 'failed') onFailed(step, leg, outcome)
  else if (state === 'parked') onAccept(step, leg, 'parked', message.consumed)
  else if (state === 'paired' && units > 0) onProgress(step, leg, units)
  else if (state === 'paired') onAccept(step, leg, 'paired')
  else if (state === 'over') onOver(step, leg)
  if (message.queued) step.news.push({ leg, happened: 'queued' })
}

function onOver(step: DecodeStep, leg: Leg): void {
  if (tryAgain(step, leg)) return
  const text = `has finished with room ${leg.request.key}, and its outcome is not known. Try again.`
  endDrained(step, leg, about(leg.link, 'ERR_KVX_OUTCOME_LOST', 'transfer', text))
}

export function onDrained(step: DecodeStep, leg: Leg): void {
  const text = `ended room ${leg.request.key} without saying why.`
  endDrained(step, leg, about(leg.link, 'ERR_KVX_OUTCOME_LOST', 'transfer', text))
}

/** Prefill has ended it, and nothing of it can land. The error says why, unless that was known before. */
function endDrained(step: DecodeStep, leg: Leg, error: KvxError): void {
  if (leg.phase !== 'failed') step.news.push({ leg, happened: 'failed', error })
  leg.phase = 'failed'
  markDrained(step, leg)
  step.news.push({ leg, happened: 'drained' })
}

/** Has prefill end it, unless that is known to have happened. */
export function abort(step: DecodeStep, leg: Leg, error: KvxError): void {
  if (leg.drained || leg.phase === 'failed') return
  leg.phase = 'failed'
  leg.failedAt = step.now
  leg.heard = step.now
  sendAbort(step, leg, error)
}

/** Nothing of it can land any more. */
export function markDrained(step: DecodeStep, leg: Leg): void {
  leg.drained = true
  leg.link.legs.delete(leg.epoch)
  freeBays(step, leg)
}

/** Legs of which something may still land. */
export function undrainedLegs({ requests }: DecodeState): Leg[] {
  return [...requests.values()].flatMap(({ legs }) => legs.filter((leg) => !leg.drained))
}

/** After a reconnect, and when news is late: what was said may have been lost. */
export function revisit(step: DecodeStep, leg: Leg): void {
  if (leg.phase === 'failed') {
    sendAbort(step, leg, leg.request.error ?? new KvxError('ERR_KVX_ABORTED', 'aborted'))
  } else {
    ask(step, leg.link, leg.epoch, 'query')
  }
}
