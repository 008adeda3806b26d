/** Prefill ranks: connected, greeted, watched, lost. */
import { KvxError } from '@kvx/contract'
import { checkFit, Planner } from '../../plan/index.ts'
import { helloOf } from '../greeting.ts'
import { count, type PeerGone } from '../keys.ts'
import { checkPeerLayout } from '../fit.ts'
import { maxQueuedRooms, maxRegions, type Message, type MessageOf } from '../messages.ts'
import { advance, failRequest, markDrained, revisit, undrainedLegs } from './requests.ts'
import { isWanted, outdate } from './sources.ts'
import { about, sendTo } from './send.ts'
import type { DecodeEvent, DecodeStep, Link, SourceRank } from './state.ts'

/** The link to a rank that is registered, so that it should live. */
export function linkTo(step: DecodeStep, rank: SourceRank): Link {
  const known = step.state.links.get(rank.endpoint)
  if (known?.incarnation === rank.incarnation) {
    if (known.status === 'lost') {
      known.status = 'connecting'
      known.heard = step.now
    }
    if (known.up && known.status === 'connecting') greet(step, known)
    return known
  }
  if (known) replaceLink(step, known)
  const { endpoint, incarnation, instance } = rank
  const link: Link = {
    endpoint,
    incarnation,
    instance,
    rank: rank.rank,
    status: 'connecting',
    up: false,
    heard: step.now,
    pinged: step.now,
    fencing: false,
    doubtful: false,
    layout: undefined,
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

/** Another process has registered at its address. */
export function replaceLink(step: DecodeStep, link: Link): void {
  loseLink(
    step,
    link,
    about(link, 'ERR_KVX_PEER_LOST', 'transfer', 'was replaced by a new process.'),
  )
  if (step.state.links.get(link.endpoint) !== link) return
  step.state.links.delete(link.endpoint)
  step.out.push({ do: 'disconnect', endpoint: link.endpoint })
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
  if (link.status !== 'lost') link.status = 'connecting'
  if (event.error) loseLink(step, link, event.error)
}

export function greet(step: DecodeStep, link: Link): void {
  if (step.state.recycle?.phase === 'closing' || link.fencing) return
  link.status = 'greeting'
  sayHello(step, link)
}

function sayHello(step: DecodeStep, link: Link): void {
  const { self, engine, epoch, fences } = step.state
  const about = { to: link.incarnation, epoch, fences: fences.get(link.incarnation) ?? 0 }
  sendTo(step, link, helloOf(self, engine, about))
}

export function onWelcome(step: DecodeStep, link: Link, message: MessageOf<'welcome'>): void {
  if (link.status !== 'greeting' && link.status !== 'lost') {
    count(step.state.dropped, 'welcome')
    return
  }
  try {
    checkFit(message.layout, step.state.self.layout)
    checkPeerLayout(message.layout, maxRegions)
  } catch (error) {
    loseLink(step, link, error as KvxError)
    return
  }
  link.status = 'ready'
  link.writer = message.writer
  link.auxBytes = Math.min(message.limits.auxBytes, step.state.self.limits.auxBytes)
  link.doubtful = false
  link.layout ??= message.layout
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
    message.gen === step.state.engine.generation &&
    link.status === 'greeting'
  ) {
    outdate(step, link)
    replaceLink(step, link)
  } else {
    count(step.state.dropped, 'another incarnation')
  }
}

/** Fails what runs over the link; its pages stay with their leases until drained or fenced. */
export function loseLink(step: DecodeStep, link: Link, error: KvxError): void {
  link.status = 'lost'
  link.doubtful = true
  const concerned = new Set([...link.waiting, ...[...link.legs.values()].map((leg) => leg.request)])
  for (const request of concerned) failRequest(step, request, error)
  const { fence } = step.state.self
  if (link.legs.size > 0 && link.writer !== undefined && fence !== 'engine' && !link.fencing) {
    link.fencing = fence === 'peer'
    step.out.push({ do: 'fence', writer: link.writer })
  }
  forgetIfOver(step, link)
}

/** Its silence need not be waited for, nor its return. */
export function onPeerGone(step: DecodeStep, { generation, reason }: PeerGone): void {
  for (const link of [...step.state.links.values()]) {
    if (link.writer !== generation || link.status === 'lost') continue
    loseLink(step, link, about(link, 'ERR_KVX_PEER_LOST', 'transfer', `is gone. ${reason}`))
  }
}

export function onFenced(step: DecodeStep, writer: string): void {
  const revoked = [...step.state.links.values()].filter(
    (link) => link.fencing && link.writer === writer,
  )
  for (const leg of undrainedLegs(step)) {
    // One that has come back is asked again, and fenced again when it is lost again.
    if (leg.link.writer !== writer) continue
    if (leg.link.status !== 'lost' && !leg.link.fencing) continue
    markDrained(step, leg)
    forgetIfOver(step, leg.link)
  }
  for (const link of revoked) onRevoked(step, link)
}

/** Nothing was freed by it: what waits for the fence goes on waiting, and it is tried again. */
export function onFenceFailed(step: DecodeStep, writer: string): void {
  step.state.unfenced.set(writer, step.now + step.state.self.deadlines.drain)
}

export function watchFences(step: DecodeStep): void {
  for (const [writer, due] of step.state.unfenced) {
    if (step.now < due) continue
    step.state.unfenced.delete(writer)
    const links = [...step.state.links.values(), ...undrainedLegs(step).map(({ link }) => link)]
    const isAwaited = links.some(
      (link) =>
        link.writer === writer && (link.fencing || (link.status === 'lost' && link.legs.size > 0)),
    )
    if (isAwaited) step.out.push({ do: 'fence', writer })
  }
}

/** What prefill had connected is of no use any more; its next hello says so. */
function onRevoked(step: DecodeStep, link: Link): void {
  const { fences, self } = step.state
  const [oldest] = fences.keys()
  if (oldest !== undefined && fences.size >= self.limits.peers) fences.delete(oldest)
  fences.set(link.incarnation, (fences.get(link.incarnation) ?? 0) + 1)
  link.fencing = false
  if (step.state.links.get(link.endpoint) === link && link.up) greet(step, link)
}

function forgetIfOver(step: DecodeStep, link: Link): void {
  if (link.status === 'lost') forgetIfIdle(step, link)
}

export function forgetIfIdle(step: DecodeStep, link: Link): void {
  if (link.legs.size > 0 || link.waiting.size > 0) return
  // While it is registered the connection is tried on, for the requests to come.
  if (isWanted(step, link)) return
  if (step.state.links.get(link.endpoint) !== link) return
  step.state.links.delete(link.endpoint)
  step.out.push({ do: 'disconnect', endpoint: link.endpoint })
}

/** Said again with every ping: prefill waits for these requests as long as it is said. */
function tellQueued(step: DecodeStep, link: Link): void {
  const open = [...link.waiting].filter(({ phase }) => phase === 'open')
  for (let first = 0; first < open.length; first += maxQueuedRooms) {
    const rooms = open
      .slice(first, first + maxQueuedRooms)
      .map(({ room, index }): [bigint, number] => [room, index])
    sendTo(step, link, { k: 'queued', gen: step.state.engine.generation, rooms })
  }
}

export function watchLinks(step: DecodeStep): void {
  const { self } = step.state
  for (const link of [...step.state.links.values()]) {
    forgetIfOver(step, link)
    const isPingDue = step.now - link.pinged >= self.deadlines.ping
    if (link.status === 'lost') {
      // Perhaps it was only slow: then it can still say `drained`.
      if (!isPingDue || link.legs.size === 0 || link.fencing) continue
      if (step.state.recycle?.phase === 'closing') continue
      link.pinged = step.now
      sayHello(step, link)
      continue
    }
    if (step.now - link.heard > self.deadlines.peerSilent) {
      const silence = `has been silent for ${String(self.deadlines.peerSilent)} ms.`
      loseLink(
        step,
        link,
        about(link, 'ERR_KVX_PEER_LOST', link.planner ? 'transfer' : 'hello', silence),
      )
      continue
    }
    // Also while it is greeted: a prefill that replaces its engine answers hello late, but it lives.
    if (link.status !== 'connecting' && isPingDue) {
      link.pinged = step.now
      sendTo(step, link, { k: 'ping', live: link.legs.size })
      if (link.status === 'ready') tellQueued(step, link)
    }
  }
}
