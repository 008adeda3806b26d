/** The receiving leg of a request: from the host's first call until its pages are free. */
import { KvxError, type ErrorCode, type Phase } from '@kvx/contract'
import { pageCount } from '../../layout/index.ts'
import { checkCovered } from '../../plan/index.ts'
import { hostReason, toldError } from '../keys.ts'
import { packPages, packState, unpackPages, type MessageOf } from '../messages.ts'
import { rankName } from '../rank.ts'
import { leaveSource, resolve } from './sources.ts'
import { about, ask, sendAbort, sendTo } from './send.ts'
import type { DecodeEvent, DecodeState, DecodeStep, Leg, Request } from './state.ts'

/** A reserve whose epoch was over before it began is tried so often. */
const maxTries = 3

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

export function onReceive(step: DecodeStep, event: DecodeEvent & { type: 'host.receive' }): void {
  const request: Request = {
    id: event.request,
    key: event.key,
    room: event.room,
    index: event.index,
    from: event.from,
    tokens: event.tokens,
    digest: event.digest,
    deadlines: event.deadlines,
    phase: 'resolving',
    since: step.now,
    deadline: step.now + event.deadlines.hello,
    queueEnd: Infinity,
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
  resolve(step, request)
}

export function onReserve(step: DecodeStep, event: DecodeEvent & { type: 'host.reserve' }): void {
  const request = step.state.requests.get(event.request)
  if (!request || request.error) return
  const { pageTokens, pages } = step.state.self.layout
  const prefixTokens = Math.floor(event.prefixTokens / pageTokens) * pageTokens
  if (request.destination) {
    reject(step, request, 'ERR_KVX_INVALID_STATE', 'reserve() may be called only once.')
    return
  }
  const wrong =
    event.prefixTokens < 0 || event.prefixTokens > request.tokens
      ? `prefixTokens must be from 0 to the ${String(request.tokens)} tokens of the prompt, got ${String(event.prefixTokens)}.`
      : (pagesObjection(event.pages, request.tokens - prefixTokens, pageTokens, pages.kv ?? 0) ??
        stateObjection(step, event.state))
  if (wrong) {
    reject(step, request, 'ERR_KVX_INVALID_ARGUMENT', `reserve(): ${wrong}`)
    return
  }
  request.destination = { prefixTokens, pages: event.pages, state: event.state }
  if (request.phase === 'open') request.deadline = step.now + request.deadlines.reserve
  advance(step, request)
}

/** A wrong call of the host changes nothing: the right one may follow. */
function reject(step: DecodeStep, { id, key }: Request, code: ErrorCode, text: string): void {
  const error = new KvxError(code, `Room ${key}: ${text}`, { phase: 'reserve' })
  step.out.push({ do: 'receiver.rejected', request: id, error })
}

function pagesObjection(
  pages: Int32Array | undefined,
  tokens: number,
  pageTokens: number,
  total: number,
): string | undefined {
  if (!pages) return undefined
  const needed = Math.ceil(tokens / pageTokens)
  if (pages.length !== needed)
    return `${String(pages.length)} pages were given; ${String(needed)} are needed.`
  return boundsObjection(pages, total)
}

function stateObjection(
  step: DecodeStep,
  state: Readonly<Record<string, Int32Array>>,
): string | undefined {
  for (const [component, pages] of Object.entries(state)) {
    const total = pageCount(step.state.self.layout, component)
    if (component === 'kv' || total === 0) return `there is no state component '${component}'.`
    const wrong = boundsObjection(pages, total)
    if (wrong) return `of component '${component}' ${wrong}`
  }
  return undefined
}

function boundsObjection(pages: Int32Array, total: number): string | undefined {
  if (pages.some((page) => page < 0 || page >= total))
    return `a page index is outside of the pool's ${String(total)} pages.`
  if (new Set(pages).size !== pages.length) return 'a page is named twice.'
  return undefined
}

/** Goes on as soon as every link of the request is ready. */
export function advance(step: DecodeStep, request: Request): void {
  if (request.phase !== 'resolving' && request.phase !== 'open') return
  if (request.legs.length === 0 || request.legs.some((leg) => leg.link.status !== 'ready')) return
  const uncovered = coverObjection(step, request)
  if (uncovered) {
    failRequest(step, request, uncovered)
    return
  }
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

/** Whether the ranks of its route hold all that is needed; asked once for a route. */
function coverObjection(step: DecodeStep, { route, legs }: Request): KvxError | undefined {
  if (!route || route.covered) return undefined
  try {
    checkCovered(
      legs.flatMap(({ link }) => link.layout ?? []),
      step.state.self.layout,
    )
    route.covered = true
    return undefined
  } catch (error) {
    return error as KvxError
  }
}

function reserve(step: DecodeStep, leg: Leg): void {
  const { request, link } = leg
  const { destination } = request
  if (!destination) return
  leg.epoch = ++step.state.epoch
  leg.phase = 'reserving'
  leg.news = step.now
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
    ...(destination.pages === undefined ? {} : { pages: packPages(destination.pages) }),
    ...(destination.pages === undefined ? {} : { state: packState(destination.state) }),
    checksums: step.state.self.verify,
  })
}

export function onAccept(
  step: DecodeStep,
  leg: Leg,
  state: 'parked' | 'paired',
  consumed = false,
): void {
  const { request } = leg
  leg.news = step.now
  leg.consumed = consumed
  if (request.error) return
  if (leg.phase === 'reserving' || (leg.phase === 'parked' && state === 'paired')) leg.phase = state
  if (request.phase === 'reserving' && request.legs.every((l) => l.phase !== 'reserving')) {
    request.phase = 'accepted'
    request.deadline = step.now + request.deadlines.pairing
    request.queueEnd = step.now + request.deadlines.queue
  }
  if (
    request.phase === 'accepted' &&
    request.legs.every((l) => l.phase !== 'reserving' && l.phase !== 'parked')
  ) {
    request.phase = 'receiving'
    request.deadline = step.now + request.deadlines.progress
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

export function onReady(step: DecodeStep, leg: Leg): void {
  const { request } = leg
  if (request.error) return
  // Its `accept` may have been lost.
  onAccept(step, leg, 'paired')
  if (request.destination?.pages) {
    // They were given, and got lost with a connection.
    sendPages(step, leg)
    return
  }
  if (request.wantedTold) return
  request.wantedTold = true
  step.out.push({ do: 'receiver.wanted', request: request.id })
}

export function onProvide(step: DecodeStep, event: DecodeEvent & { type: 'host.provide' }): void {
  const request = step.state.requests.get(event.request)
  if (!request || request.error) return
  if (!request.destination) {
    reject(step, request, 'ERR_KVX_INVALID_STATE', 'provide() needs reserve() without pages first.')
    return
  }
  const { pageTokens, pages } = step.state.self.layout
  const { destination } = request
  if (destination.pages) {
    reject(step, request, 'ERR_KVX_INVALID_STATE', 'its pages were given before.')
    return
  }
  const tokens = request.tokens - destination.prefixTokens
  const wrong =
    pagesObjection(event.pages, tokens, pageTokens, pages.kv ?? 0) ??
    stateObjection(step, event.state)
  if (wrong) {
    reject(step, request, 'ERR_KVX_INVALID_ARGUMENT', `provide(): ${wrong}`)
    return
  }
  destination.pages = event.pages
  destination.state = event.state
  for (const leg of request.legs) if (leg.epoch > 0) sendPages(step, leg)
}

function sendPages(step: DecodeStep, leg: Leg): void {
  const { destination } = leg.request
  if (!destination?.pages) return
  sendTo(step, leg.link, {
    k: 'pages',
    gen: step.state.engine.generation,
    ep: leg.epoch,
    pages: packPages(destination.pages),
    state: packState(destination.state),
  })
}

/** `landed`: something has; it may be some layers only, and no whole page yet. */
export function onProgress(step: DecodeStep, leg: Leg, pages: number, landed: boolean): void {
  const { request } = leg
  if (request.error) return
  onAccept(step, leg, 'paired')
  if (landed && !request.transferringTold) {
    request.transferringTold = true
    step.out.push({ do: 'receiver.transferring', request: request.id })
  }
  // More than was reserved would be a way to extend the deadline for ever.
  const most = leg.request.destination?.pages?.length ?? 0
  if (pages <= leg.landedPages || pages > most || leg.request.phase !== 'receiving') return
  leg.landedPages = pages
  leg.request.deadline = step.now + leg.request.deadlines.progress
}

export function onComplete(step: DecodeStep, leg: Leg, message: MessageOf<'complete'>): void {
  const { request } = leg
  if (leg.phase === 'verifying' || leg.phase === 'failed' || request.error) return
  const error = manifestObjection(step, leg, message) ?? auxObjection(leg, message)
  if (error) {
    failRequest(step, request, error)
    return
  }
  // Its `accept` may have been lost: complete says it all.
  onAccept(step, leg, 'paired')
  leg.outcome = message
  const { checksums } = message.manifest
  if (!step.state.self.verify || !checksums || !leg.link.planner) {
    completeLeg(step, leg)
    return
  }
  leg.phase = 'verifying'
  request.deadline = step.now + request.deadlines.progress
  step.out.push({
    do: 'verify',
    request: request.id,
    epoch: leg.epoch,
    planner: leg.link.planner,
    pages: request.destination?.pages ?? new Int32Array(),
    checksums: unpackPages(checksums),
  })
}

export function onVerified(step: DecodeStep, event: DecodeEvent & { type: 'verified' }): void {
  const request = step.state.requests.get(event.request)
  const leg = request?.legs.find(({ epoch }) => epoch === event.epoch)
  if (!request || leg?.phase !== 'verifying') return
  if (event.error) failRequest(step, request, event.error)
  else completeLeg(step, leg)
}

/** Prefill said `complete` after its last write had settled, so this leg is drained as well. */
function completeLeg(step: DecodeStep, leg: Leg): void {
  const { request } = leg
  leg.phase = 'complete'
  leg.drained = true
  leg.link.legs.delete(leg.epoch)
  ask(step, leg.link, leg.epoch, 'ack')
  if (request.phase === 'receiving') request.deadline = step.now + request.deadlines.progress
  if (request.legs.every(({ phase }) => phase === 'complete')) succeed(step, request)
}

/** Success only when what arrived is what was asked for. */
function manifestObjection(
  step: DecodeStep,
  leg: Leg,
  message: MessageOf<'complete'>,
): KvxError | undefined {
  const { request, link } = leg
  const { parts, checksums } = message.manifest
  const { destination } = request
  const say = (text: string) =>
    about(
      link,
      'ERR_KVX_MANIFEST_MISMATCH',
      'complete',
      `completed room ${request.key}, but ${text}`,
    )
  if (!destination?.pages || !link.planner) return say('was never given pages.')
  const expected = new Map([['kv', destination.pages.length]])
  for (const [name, pages] of Object.entries(destination.state)) expected.set(name, pages.length)
  for (const name of new Set([...expected.keys(), ...Object.keys(parts)])) {
    // What this rank does not hold comes from another one.
    const shared = link.planner.lanes.components.has(name)
    const pages = shared ? (expected.get(name) ?? 0) : 0
    const bytes = shared ? pages * link.planner.bytesPerPage(name) : 0
    const part = (Object.hasOwn(parts, name) ? parts[name] : undefined) ?? { pages: 0, bytes: 0 }
    if (part.pages !== pages || part.bytes !== bytes) {
      return say(
        `component '${name}' has ${String(part.pages)} pages, ${String(part.bytes)} bytes instead of ${String(pages)} pages, ${String(bytes)} bytes.`,
      )
    }
  }
  const sums =
    step.state.self.verify && link.planner.lanes.components.has('kv') ? destination.pages.length : 0
  if ((checksums?.byteLength ?? 0) !== 4 * sums) {
    return say('not with the checksums that were asked for.')
  }
  return undefined
}

function auxObjection(
  { request, link }: Leg,
  message: MessageOf<'complete'>,
): KvxError | undefined {
  const bytes = message.aux.blob?.byteLength ?? 0
  if (bytes <= link.auxBytes) return undefined
  const text = `sent ${String(bytes)} bytes of aux for room ${request.key} of which both sides agreed on ${String(link.auxBytes)} at most.`
  return about(link, 'ERR_KVX_AUX_TOO_LARGE', 'complete', text)
}

function succeed(step: DecodeStep, request: Request): void {
  const outcomes = request.legs.flatMap((leg) => leg.outcome ?? [])
  request.phase = 'success'
  leaveSource(step, request)
  step.state.rooms.delete(request.key)
  step.state.requests.delete(request.id)
  const parts = outcomes.flatMap((outcome) => Object.values(outcome.manifest.parts))
  step.out.push({
    do: 'receiver.done',
    request: request.id,
    aux: mergedAux(outcomes),
    report: {
      pages: request.destination?.pages?.length ?? 0,
      bytes: parts.reduce((sum, { bytes }) => sum + bytes, 0),
      chunks: Math.max(...outcomes.map((outcome) => outcome.manifest.chunks)),
      ms: Math.max(...outcomes.map((outcome) => outcome.manifest.ms)),
    },
  })
  step.out.push({ do: 'receiver.settled', request: request.id })
}

/** Aux of the rank that has one: the last pipeline stage samples the first token. */
function mergedAux(outcomes: readonly MessageOf<'complete'>[]) {
  return outcomes.reduce<MessageOf<'complete'>['aux']>((all, { aux }) => ({ ...all, ...aux }), {})
}

export function onFailed(step: DecodeStep, leg: Leg, message: MessageOf<'failed'>): void {
  ask(step, leg.link, leg.epoch, 'ack')
  if (leg.phase === 'failed') return
  leg.phase = 'failed'
  leg.failedAt = step.now
  failRequest(step, leg.request, toldError(message, leg.link))
}

export function onRefused(step: DecodeStep, leg: Leg, message: MessageOf<'refuse'>): void {
  if (message.code === 'ERR_KVX_STALE' && tryAgain(step, leg)) return
  leg.phase = 'failed'
  markDrained(step, leg)
  failRequest(step, leg.request, toldError(message, leg.link))
}

export function onStatus(step: DecodeStep, leg: Leg, message: MessageOf<'status'>): void {
  leg.news = step.now
  if (message.outcome?.k === 'complete') onComplete(step, leg, message.outcome)
  else if (message.outcome?.k === 'failed') onFailed(step, leg, message.outcome)
  else if (message.state === 'parked') onAccept(step, leg, 'parked', message.consumed)
  else if (message.state === 'paired') onProgress(step, leg, message.pages, message.pages > 0)
  else if (message.state === 'over') {
    if (leg.phase === 'reserving' && tryAgain(step, leg)) return
    const error = about(
      leg.link,
      'ERR_KVX_OUTCOME_LOST',
      'transfer',
      `has finished with room ${leg.request.key}, and its outcome is not known. Try again.`,
    )
    leg.phase = 'failed'
    markDrained(step, leg)
    failRequest(step, leg.request, error)
  }
  if (message.queued) waitOn(step, leg.request)
}

/** What is waited for is in a queue of the other side, which lives. */
function waitOn(step: DecodeStep, request: Request): void {
  const { phase, deadlines, queueEnd } = request
  if (phase !== 'accepted' && phase !== 'receiving') return
  const more = phase === 'accepted' ? deadlines.pairing : deadlines.progress
  request.deadline = Math.max(request.deadline, Math.min(step.now + more, queueEnd))
}

/** The epoch was over before its reserve arrived: nothing happened, so a new one may be tried. */
function tryAgain(step: DecodeStep, leg: Leg): boolean {
  if (leg.phase !== 'reserving' || leg.request.error || leg.tries >= maxTries) return false
  leg.link.legs.delete(leg.epoch)
  reserve(step, leg)
  return true
}

export function onDrained(step: DecodeStep, leg: Leg): void {
  if (leg.phase !== 'failed') {
    leg.phase = 'failed'
    const error = about(
      leg.link,
      'ERR_KVX_OUTCOME_LOST',
      'transfer',
      `ended room ${leg.request.key} without saying why.`,
    )
    failRequest(step, leg.request, error)
  }
  markDrained(step, leg)
}

/** Legs of which something may still land. */
export function undrainedLegs(step: DecodeStep): Leg[] {
  return [...step.state.requests.values()].flatMap((request) =>
    request.legs.filter((leg) => !leg.drained),
  )
}

/** After a reconnect, and when news is late: what was said may have been lost. */
export function revisit(step: DecodeStep, leg: Leg): void {
  if (leg.phase === 'failed') {
    sendAbort(step, leg, leg.request.error ?? new KvxError('ERR_KVX_ABORTED', 'aborted'))
  } else {
    ask(step, leg.link, leg.epoch, 'query')
  }
}

export function onHostAbort(step: DecodeStep, id: number, reason: unknown): void {
  const request = step.state.requests.get(id)
  if (!request) return
  const { instance, rank } = step.state.self
  const where = { phase: phaseOf(request), peer: instance, rank: rankName(rank) }
  failRequest(step, request, hostReason(reason, where))
}

/** Ends a request with its first cause and has every leg drained. */
export function failRequest(step: DecodeStep, request: Request, error: KvxError): void {
  if (request.phase === 'success' || request.phase === 'failed') return
  request.phase = 'failed'
  request.error = error
  request.deadline = Infinity
  step.state.rooms.delete(request.key)
  leaveSource(step, request)
  step.out.push({ do: 'receiver.failed', request: request.id, error })
  for (const leg of request.legs) {
    leg.link.waiting.delete(request)
    if (leg.drained || leg.phase === 'failed') continue
    leg.phase = 'failed'
    leg.failedAt = step.now
    leg.news = step.now
    sendAbort(step, leg, error)
  }
  tellSettled(step, request)
}

export function markDrained(step: DecodeStep, leg: Leg): void {
  leg.drained = true
  leg.link.legs.delete(leg.epoch)
  tellSettled(step, leg.request)
}

function tellSettled(step: DecodeStep, request: Request): void {
  if (request.phase !== 'failed' || !request.legs.every((leg) => leg.drained)) return
  if (step.state.requests.delete(request.id))
    step.out.push({ do: 'receiver.settled', request: request.id })
}

export function watchRequests(step: DecodeStep): void {
  const { state, now } = step
  for (const request of [...state.requests.values()]) {
    if (now >= request.deadline) {
      failRequest(step, request, lateness(step, request))
      continue
    }
    for (const leg of request.legs) {
      if (leg.drained || leg.link.status !== 'ready') continue
      if (now - leg.news < state.self.deadlines.peerSilent / 2) continue
      leg.news = now
      revisit(step, leg)
    }
  }
}

function lateness(step: DecodeStep, request: Request): KvxError {
  const legs = request.legs.filter((l) => l.phase !== 'complete')
  const leg = legs.find((l) => l.link.status !== 'ready') ?? legs[0]
  const down = step.state.sources.get(request.from)?.down
  if (!leg) {
    return (
      down ??
      new KvxError(
        'ERR_KVX_BOOTSTRAP_UNREACHABLE',
        `The bootstrap at ${request.from} did not answer in time.`,
        { phase: 'bootstrap', peer: request.from },
      )
    )
  }
  const after = (ms: number) => `within ${String(ms)} ms`
  switch (request.phase) {
    case 'resolving':
      if (down !== undefined || leg.link.doubtful) {
        return about(leg.link, 'ERR_KVX_PEER_LOST', 'hello', 'is lost, and has not come back yet.')
      }
      return about(
        leg.link,
        'ERR_KVX_TIMEOUT',
        'hello',
        leg.link.up
          ? `did not answer hello ${after(request.deadlines.hello)}.`
          : `cannot be reached at ${leg.link.endpoint}.`,
      )
    case 'reserving':
      return about(
        leg.link,
        'ERR_KVX_TIMEOUT',
        'reserve',
        `did not answer the reserve of room ${request.key} ${after(request.deadlines.reserve)}.`,
      )
    case 'open':
      return about(
        leg.link,
        'ERR_KVX_TIMEOUT',
        'reserve',
        `could not be asked for room ${request.key} ${after(request.deadlines.reserve)}.`,
      )
    case 'accepted':
      return neverPaired(request, legs.find(({ phase }) => phase === 'parked') ?? leg)
    default:
      return about(
        leg.link,
        'ERR_KVX_TIMEOUT',
        'transfer',
        `sent nothing of room ${request.key} ${after(request.deadlines.progress)}.`,
      )
  }
}

function neverPaired({ key, deadlines }: Request, { link, consumed }: Leg): KvxError {
  const late = `within ${String(deadlines.pairing)} ms`
  if (consumed) {
    const text = `has sent room ${key} before, and was sent no other leg of it ${late}.`
    return about(link, 'ERR_KVX_ROOM_CONSUMED', 'parked', text)
  }
  if (link.status === 'ready') {
    const text = `was not sent its leg of room ${key} ${late}.`
    return about(link, 'ERR_KVX_ROOM_UNKNOWN', 'parked', text)
  }
  const text = `was not heard of ${late}: whether its leg of room ${key} came is not known.`
  return about(link, 'ERR_KVX_TIMEOUT', 'parked', text)
}

function phaseOf(request: Request): Phase {
  switch (request.phase) {
    case 'resolving':
      return 'hello'
    case 'open':
    case 'reserving':
      return 'reserve'
    case 'accepted':
      return 'parked'
    default:
      return 'transfer'
  }
}
