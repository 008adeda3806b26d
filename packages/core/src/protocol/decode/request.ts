/** The request of this side's host: its legs together, its deadlines, its one end, and when its pages are free. */
import { KvxError } from '@kvx/contract'
import type { MessageOf } from '../messages.ts'
import { lateness } from './lateness.ts'
import { expectedOf } from './manifest.ts'
import { dropQueued, isScattering } from './bays.ts'
import { abort, complete, markDrained, reserve, revisit, sendPages, verify } from './leg.ts'
import type { DecodeEvent, DecodeState, DecodeStep, Leg, Link, Request } from './state.ts'

/** Why a new leg cannot be taken, or undefined. */
export function receiveObjection(state: DecodeState, key: string): KvxError | undefined {
  if (state.broken) return state.broken
  if (state.rooms.has(key)) {
    return new KvxError(
      'ERR_KVX_ROOM_IN_USE',
      `Room ${key} already belongs to a running request.`,
      { phase: 'reserve' },
    )
  }
  if (state.requests.size >= state.self.limits.requests) {
    return new KvxError(
      'ERR_KVX_OVER_LIMIT',
      `${String(state.requests.size)} requests are already running here.`,
      { phase: 'reserve' },
    )
  }
  return undefined
}

export function addRequest(
  step: DecodeStep,
  event: DecodeEvent & { type: 'host.receive' },
): Request {
  const request: Request = {
    id: event.request,
    key: event.key,
    room: event.room,
    index: event.index,
    from: event.from,
    tokens: event.tokens,
    digest: event.digest,
    dpRank: event.dpRank,
    deadlines: event.deadlines,
    phase: 'resolving',
    since: step.now,
    soughtSince: step.now,
    deadline: step.now + event.deadlines.hello,
    queueEnd: Infinity,
    published: undefined,
    asked: false,
    route: undefined,
    legs: [],
    destination: undefined,
    acceptedTold: false,
    wantedTold: false,
    transferringTold: false,
    error: undefined,
  }
  step.state.requests.set(request.id, request)
  step.state.rooms.set(request.key, request)
  return request
}

/** Reserves as soon as every link of the request is ready and the host has said where to. */
export function advance(step: DecodeStep, request: Request): void {
  if (request.phase !== 'resolving' && request.phase !== 'open') return
  if (request.legs.length === 0 || request.legs.some((leg) => leg.link.status !== 'ready')) return
  if (!request.destination) {
    if (request.phase === 'resolving')
      step.out.push({ do: 'receiver.reached', request: request.id })
    request.phase = 'open'
    request.deadline = Infinity
    return
  }
  if (step.state.recycle) return
  request.phase = 'reserving'
  request.deadline = step.now + request.deadlines.reserve
  for (const leg of request.legs) {
    leg.link.waiting.delete(request)
    reserve(step, leg)
  }
}

/** Has the bootstrap service say which data-parallel rank is published for it. */
export function askPublished(step: DecodeStep, request: Request): void {
  const { from, room, index } = request
  request.asked = true
  step.out.push({ do: 'askPublished', from, room, index })
}

export function unaskPublished(step: DecodeStep, request: Request): void {
  if (!request.asked) return
  const { from, room, index } = request
  request.asked = false
  step.out.push({ do: 'unaskPublished', from, room, index })
}

/** Its peer is known to be lost: what may be back in a moment is not waited for as long. */
export function hurry(step: DecodeStep, request: Request): void {
  const { phase, deadlines, soughtSince } = request
  if (phase !== 'resolving' && phase !== 'routing') return
  const end = (phase === 'resolving' ? soughtSince : step.now) + deadlines.probe
  request.deadline = Math.min(request.deadline, Math.max(step.now, end))
}

/** What was said while no connection stood is lost, and what waited for the link goes on. */
export function onLinkReady(step: DecodeStep, link: Link): void {
  for (const leg of link.legs.values()) revisit(step, leg)
  for (const request of link.waiting) advance(step, request)
}

export function onAccepted(step: DecodeStep, request: Request): void {
  const { legs, deadlines } = request
  if (request.phase === 'reserving' && legs.every(({ phase }) => phase !== 'reserving')) {
    request.phase = 'accepted'
    request.deadline = step.now + deadlines.pairing
    request.queueEnd = step.now + deadlines.queue
  }
  if (
    request.phase === 'accepted' &&
    legs.every(({ phase }) => phase !== 'reserving' && phase !== 'parked')
  ) {
    request.phase = 'receiving'
    request.deadline = step.now + deadlines.progress
    unaskPublished(step, request)
  }
  if (!request.acceptedTold && request.phase !== 'reserving') {
    request.acceptedTold = true
    step.out.push({
      do: 'receiver.accepted',
      request: request.id,
      prefixTokens: request.destination?.prefixTokens ?? 0,
    })
  }
}

export function onPagesWanted(step: DecodeStep, leg: Leg): void {
  const { request } = leg
  if (request.destination?.pages) {
    // They were given, and got lost with a connection.
    sendPages(step, leg)
    return
  }
  if (request.wantedTold) return
  request.wantedTold = true
  step.out.push({ do: 'receiver.wanted', request: request.id })
}

export function onLanded(step: DecodeStep, leg: Leg, units: number): void {
  const { request } = leg
  if (!request.transferringTold) {
    request.transferringTold = true
    step.out.push({ do: 'receiver.transferring', request: request.id })
  }
  // More than was reserved would be a way to extend the deadline for ever.
  if (units <= leg.landed || request.phase !== 'receiving') return
  if (leg.landed === 0)
    leg.expected = [...expectedOf(leg).values()].reduce((sum, { units }) => sum + units, 0)
  if (units > leg.expected) return
  leg.landed = units
  request.deadline = step.now + request.deadlines.progress
}

/** What is waited for is in a queue of the other side, which lives. */
export function onQueued(step: DecodeStep, request: Request): void {
  const { phase, deadlines, queueEnd } = request
  if (phase !== 'accepted' && phase !== 'receiving') return
  const more = phase === 'accepted' ? deadlines.pairing : deadlines.progress
  request.deadline = Math.max(request.deadline, Math.min(step.now + more, queueEnd))
}

/** What prefill says it has sent is what was asked for. It counts when the bytes have been checked as well. */
export function onSent(step: DecodeStep, leg: Leg): void {
  const { request } = leg
  if (verify(step, leg)) request.deadline = step.now + request.deadlines.progress
  else completeLeg(step, leg)
}

export function onVerified(step: DecodeStep, event: DecodeEvent & { type: 'verified' }): void {
  const request = step.state.requests.get(event.request)
  const leg = request?.legs.find(({ epoch }) => epoch === event.epoch)
  if (!request || leg?.phase !== 'verifying') return
  if (event.error) failRequest(step, request, event.error)
  else completeLeg(step, leg)
}

function completeLeg(step: DecodeStep, leg: Leg): void {
  const { request } = leg
  complete(step, leg)
  if (request.phase === 'receiving') request.deadline = step.now + request.deadlines.progress
  if (request.legs.every(({ phase }) => phase === 'complete')) succeed(step, request)
}

function succeed(step: DecodeStep, request: Request): void {
  const outcomes = request.legs.flatMap((leg) => leg.outcome ?? [])
  request.phase = 'success'
  leave(step, request)
  step.state.requests.delete(request.id)
  const parts = outcomes.flatMap((outcome) => Object.values(outcome.manifest.parts))
  step.out.push({
    do: 'receiver.done',
    request: request.id,
    aux: mergedAux(outcomes),
    report: {
      pages: Object.values(request.destination?.pages ?? {}).reduce(
        (n, list) => n + list.length,
        0,
      ),
      bytes: parts.reduce((sum, { bytes }) => sum + bytes, 0),
      chunks: Math.max(...outcomes.map((outcome) => outcome.manifest.chunks)),
      ms: Math.max(...outcomes.map((outcome) => outcome.manifest.ms)),
      stagedBytes: request.legs.reduce((sum, leg) => sum + leg.stagedBytes, 0),
    },
  })
  step.out.push({ do: 'receiver.settled', request: request.id })
}

/** Aux of the rank that has one: the last pipeline stage samples the first token. */
function mergedAux(outcomes: readonly MessageOf<'complete'>[]) {
  return outcomes.reduce<MessageOf<'complete'>['aux']>((all, { aux }) => ({ ...all, ...aux }), {})
}

/** Ends a request with its first cause and has every leg drained. */
export function failRequest(step: DecodeStep, request: Request, error: KvxError): void {
  if (request.phase === 'success' || request.phase === 'failed') return
  request.phase = 'failed'
  request.error = error
  request.deadline = Infinity
  leave(step, request)
  step.out.push({ do: 'receiver.failed', request: request.id, error })
  for (const leg of request.legs) {
    leg.link.waiting.delete(request)
    dropQueued(step, leg)
    abort(step, leg, error)
  }
  settleIfDrained(step, request)
}

/** Its room may be used again; its source need not be watched for it. */
function leave(step: DecodeStep, request: Request): void {
  const { state } = step
  unaskPublished(step, request)
  state.rooms.delete(request.key)
  state.sources.get(request.from)?.requests.delete(request)
}

export function drainLeg(step: DecodeStep, leg: Leg): void {
  markDrained(step, leg)
  settleIfDrained(step, leg.request)
}

/** The pages of a failed request are free once nothing can land in them, and this side itself writes nothing into them. */
export function settleIfDrained(step: DecodeStep, request: Request): void {
  if (request.phase !== 'failed' || !request.legs.every((leg) => leg.drained && !isScattering(leg)))
    return
  if (step.state.requests.delete(request.id))
    step.out.push({ do: 'receiver.settled', request: request.id })
}

export function watchRequest(step: DecodeStep, request: Request): void {
  const { state, now } = step
  if (now >= request.deadline) {
    failRequest(step, request, lateness(state, request))
    return
  }
  for (const leg of request.legs) {
    if (leg.drained || leg.link.status !== 'ready') continue
    if (now - leg.heard < state.self.deadlines.peerSilent / 2) continue
    leg.heard = now
    revisit(step, leg)
    // Perhaps prefill's leg is with another data-parallel rank.
    const { dpSize } = leg.link.rank
    if (leg.phase === 'parked' && dpSize > 1 && !request.asked) askPublished(step, request)
  }
}
