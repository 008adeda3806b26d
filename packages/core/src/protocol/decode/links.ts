/** Prefill ranks: found, connected, greeted, watched, lost. */
import { KvxError } from '../../backend/index.ts'
import { checkFit, Planner } from '../../plan/index.ts'
import { count } from '../keys.ts'
import type { Message, MessageOf } from '../messages.ts'
import { requiredPrefillRanks } from '../topology.ts'
import { advance, failRequest, markDrained, revisit, undrainedLegs } from './requests.ts'
import { about, sendTo } from './send.ts'
import type { DecodeEvent, DecodeStep, Link, Request, Source, SourceRank } from './state.ts'

/** Gives a request its links, or starts to look for them. */
export function resolve(step: DecodeStep, request: Request): void {
  const source = sourceOf(step, request.from)
  if (source.links) {
    attach(step, request, source.links)
    return
  }
  source.waiting.add(request)
  if (source.waiting.size > 1) return
  source.links = undefined
  step.out.push({ do: 'readSource', from: source.from, timeoutMs: step.state.self.deadlines.hello })
}

function sourceOf(step: DecodeStep, from: string): Source {
  let source = step.state.sources.get(from)
  if (!source) {
    source = { from, links: undefined, waiting: new Set() }
    step.state.sources.set(from, source)
  }
  return source
}

export function onSourceRead(step: DecodeStep, event: DecodeEvent & { type: 'source.read' }): void {
  const source = sourceOf(step, event.from)
  const waiting = takeWaiting(source)
  let ranks: SourceRank[]
  try {
    ranks = requiredPrefillRanks(step.state.self.rank, event.ranks)
  } catch (error) {
    for (const request of waiting) failRequest(step, request, error as KvxError)
    return
  }
  source.links = ranks.map((rank) => linkOf(step, rank))
  for (const request of waiting) attach(step, request, source.links)
}

export function onSourceFailed(step: DecodeStep, from: string, error: KvxError): void {
  for (const request of takeWaiting(sourceOf(step, from))) failRequest(step, request, error)
}

function takeWaiting(source: Source): Request[] {
  const waiting = [...source.waiting]
  source.waiting.clear()
  return waiting.filter((request) => request.phase === 'resolving')
}

function linkOf(step: DecodeStep, rank: SourceRank): Link {
  const known = step.state.links.get(rank.endpoint)
  if (known?.incarnation === rank.incarnation) {
    // Registered, so it lives: the lost one may greet again.
    if (known.status === 'lost') {
      known.status = 'connecting'
      known.heard = step.now
    }
    if (known.up && known.status === 'connecting') greet(step, known)
    return known
  }
  if (known) {
    loseLink(
      step,
      known,
      about(known, 'ERR_KVX_PEER_LOST', 'transfer', 'was replaced by a new process.'),
    )
    step.out.push({ do: 'disconnect', endpoint: known.endpoint })
  }
  const link: Link = {
    ...rank,
    status: 'connecting',
    up: false,
    heard: step.now,
    pinged: step.now,
    writer: undefined,
    planner: undefined,
    auxBytes: 0,
    legs: new Map(),
    waiting: new Set(),
  }
  step.state.links.set(link.endpoint, link)
  step.out.push({ do: 'connect', endpoint: link.endpoint })
  return link
}

function attach(step: DecodeStep, request: Request, links: readonly Link[]): void {
  request.legs = links.map((link) => ({
    request,
    link,
    epoch: 0,
    phase: 'idle',
    news: step.now,
    failedAt: 0,
    drained: true,
    tries: 0,
    landedPages: 0,
    outcome: undefined,
  }))
  for (const link of links) link.waiting.add(request)
  advance(step, request)
}

export function onLinkUp(step: DecodeStep, endpoint: string): void {
  const link = step.state.links.get(endpoint)
  if (!link) return
  link.up = true
  link.heard = step.now
  greet(step, link)
}

export function onLinkDown(step: DecodeStep, event: DecodeEvent & { type: 'link.down' }): void {
  const link = step.state.links.get(event.endpoint)
  if (!link) return
  link.up = false
  // Loss of the connection alone fails nothing until the peer-silent deadline; a refusal is final.
  // New requests ask the bootstrap again: a new process may serve by now.
  if (link.status !== 'lost') link.status = 'connecting'
  for (const source of step.state.sources.values())
    if (source.links?.includes(link)) source.links = undefined
  if (event.error) loseLink(step, link, event.error)
}

export function greet(step: DecodeStep, link: Link): void {
  if (step.state.recycle?.phase === 'closing') return
  link.status = 'greeting'
  sayHello(step, link)
}

function sayHello(step: DecodeStep, link: Link): void {
  const { self, engine, epoch } = step.state
  sendTo(step, link, {
    k: 'hello',
    gen: engine.generation,
    session: self.session,
    instance: self.instance,
    rank: self.rank,
    layout: self.layout,
    fingerprint: self.fingerprint,
    epoch,
    engine: {
      backend: self.backend,
      version: self.version,
      address: engine.address,
      regions: [...engine.regions],
    },
  })
}

export function onWelcome(step: DecodeStep, link: Link, message: MessageOf<'welcome'>): void {
  if (link.status !== 'greeting' && link.status !== 'lost') {
    count(step.state.dropped, 'welcome')
    return
  }
  try {
    checkFit(message.layout, step.state.self.layout)
  } catch (error) {
    loseLink(step, link, error as KvxError)
    return
  }
  link.status = 'ready'
  link.writer = message.writer
  link.auxBytes = message.limits.auxBytes
  link.planner ??= new Planner(message.layout, step.state.self.layout)
  for (const leg of [...link.legs.values()]) revisit(step, leg)
  for (const request of [...link.waiting]) advance(step, request)
}

/** Of a hello; a refused reserve is a matter of its request. */
export function onRefusedHello(step: DecodeStep, link: Link, message: MessageOf<'refuse'>): void {
  if (message.code === 'ERR_KVX_INVALID_STATE') {
    if (link.status === 'ready') greet(step, link)
    return
  }
  const error = new KvxError(message.code, message.text, {
    phase: 'hello',
    peer: link.instance,
    rank: message.rank,
  })
  if (link.status === 'greeting') loseLink(step, link, error)
}

/**
 * A message of another incarnation changes nothing, except that the answer to a hello tells who serves
 * at this address now.
 */
export function onStranger(step: DecodeStep, link: Link, message: Message): void {
  if (
    message.k === 'refuse' &&
    message.code === 'ERR_KVX_STALE' &&
    message.ep === undefined &&
    link.status === 'greeting'
  ) {
    loseLink(
      step,
      link,
      about(link, 'ERR_KVX_PEER_LOST', 'hello', 'was replaced by a new process.'),
    )
  } else {
    count(step.state.dropped, 'another incarnation')
  }
}

/** Fails what runs over the link; its pages stay with their leases until drained or fenced. */
export function loseLink(step: DecodeStep, link: Link, error: KvxError): void {
  link.status = 'lost'
  for (const source of step.state.sources.values())
    if (source.links?.includes(link)) source.links = undefined
  const concerned = new Set([...link.waiting, ...[...link.legs.values()].map((leg) => leg.request)])
  for (const request of concerned) failRequest(step, request, error)
  if (link.legs.size > 0 && link.writer !== undefined && step.state.self.fence !== 'engine') {
    step.out.push({ do: 'fence', writer: link.writer })
  }
  forgetIfOver(step, link)
}

export function onFenced(step: DecodeStep, writer: string): void {
  for (const leg of undrainedLegs(step)) {
    // One that has come back is asked again, and fenced again when it is lost again.
    if (leg.link.writer !== writer || leg.link.status !== 'lost') continue
    markDrained(step, leg)
    forgetIfOver(step, leg.link)
  }
}

function forgetIfOver(step: DecodeStep, link: Link): void {
  if (link.status !== 'lost' || link.legs.size > 0 || link.waiting.size > 0) return
  if (step.state.links.get(link.endpoint) !== link) return
  step.state.links.delete(link.endpoint)
  step.out.push({ do: 'disconnect', endpoint: link.endpoint })
}

export function watchLinks(step: DecodeStep): void {
  const { self } = step.state
  for (const link of [...step.state.links.values()]) {
    forgetIfOver(step, link)
    const isPingDue = step.now - link.pinged >= self.deadlines.ping
    if (link.status === 'lost') {
      // Perhaps it was only slow: then it can still say `drained`.
      if (!isPingDue || link.legs.size === 0 || step.state.recycle?.phase === 'closing') continue
      link.pinged = step.now
      sayHello(step, link)
      continue
    }
    if (step.now - link.heard > self.deadlines.peerSilent) {
      const silence = `has been silent for ${String(self.deadlines.peerSilent)} ms.`
      loseLink(
        step,
        link,
        about(link, 'ERR_KVX_PEER_LOST', link.status === 'ready' ? 'transfer' : 'hello', silence),
      )
      continue
    }
    // Also while it is greeted: a prefill that replaces its engine answers hello late, but it lives.
    if (link.status !== 'connecting' && isPingDue) {
      link.pinged = step.now
      sendTo(step, link, { k: 'ping', live: link.legs.size })
    }
  }
  for (const source of [...step.state.sources.values()]) {
    if (!source.links && source.waiting.size === 0) step.state.sources.delete(source.from)
  }
}
