/** The link to a prefill rank: connected, greeted, kept alive. What its loss means is decided in `loss.ts`. */
import { KvxError } from '@kvx/contract'
import { helloOf } from '../greeting.ts'
import { count } from '../keys.ts'
import { pairRanks } from '../fit.ts'
import { maxRegions, maxSamples, type MessageOf } from '../messages.ts'
import { contextName, equalRanks, rankName, type Rank } from '../../share/index.ts'
import { about, sendTo } from './send.ts'
import type { DecodeEvent, DecodeStep, Link, Source, SourceRank } from './state.ts'

export function addLink(step: DecodeStep, { endpoint, incarnation, instance, rank }: SourceRank) {
  const link: Link = {
    endpoint,
    incarnation,
    instance,
    rank,
    status: 'connecting',
    up: false,
    heard: step.now,
    pinged: step.now,
    fencing: false,
    doubtful: false,
    isUnknown: false,
    pairing: undefined,
    writer: undefined,
    auxBytes: 0,
    legs: new Map(),
    waiting: new Set(),
  }
  step.state.links.set(link.endpoint, link)
  step.out.push({ do: 'connect', endpoint: link.endpoint })
  return link
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
  if (event.error) step.news.push({ link, happened: 'lost', error: event.error })
}

export function greet(step: DecodeStep, link: Link): void {
  if (step.state.recycle?.phase === 'closing' || link.fencing) return
  link.status = 'greeting'
  link.isUnknown = false
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
  if (!equalRanks(message.rank, link.rank)) {
    const text = anotherRank(link.rank, message.rank)
    const error = about(link, 'ERR_KVX_LAYOUT_MISMATCH', 'hello', text)
    step.news.push({ link, happened: 'lost', error })
    return
  }
  try {
    link.pairing ??= pairRanks(step.state.self, 'decode', message, maxRegions)
  } catch (error) {
    step.news.push({ link, happened: 'lost', error: error as KvxError })
    return
  }
  link.status = 'ready'
  link.writer = message.writer
  link.auxBytes = Math.min(message.limits.auxBytes, step.state.self.limits.auxBytes)
  link.doubtful = false
  link.isUnknown = false
  step.news.push({ link, happened: 'ready' })
}

/** Who sends what follows from the ranks that are registered: with others some bytes would come twice, and some never. */
function anotherRank(registered: Rank, told: Rank): string {
  return `is registered at the bootstrap as rank ${described(registered)}, and says that it is ${described(told)}. Restart it.`
}

function described(rank: Rank): string {
  const { tpSize, ppSize, cpSize, dpSize, context, stages } = rank
  const sizes = `tp${String(tpSize)}/pp${String(ppSize)}/cp${String(cpSize)}/dp${String(dpSize)}`
  const tokens = cpSize === 1 ? '' : `, context ${contextName(context)}`
  return `${rankName(rank)} of ${sizes}, with stages [${stages.join(', ')}]${tokens}`
}

/** Of a hello; a refused reserve is a matter of its leg. */
export function onRefusedHello(step: DecodeStep, link: Link, message: MessageOf<'refuse'>): void {
  if (message.code === 'ERR_KVX_INVALID_STATE') {
    if (link.status === 'ready') greet(step, link)
    return
  }
  if (link.status !== 'greeting') return
  const error = new KvxError(message.code, message.text, {
    phase: 'hello',
    peer: link.instance,
    rank: message.rank,
  })
  step.news.push({ link, happened: 'lost', error })
}

export function isRegistered({ ranks }: Source, { endpoint, incarnation }: Link): boolean {
  return ranks?.some((r) => r.endpoint === endpoint && r.incarnation === incarnation) ?? false
}

/** A ping was refused: prefill took an earlier connection, of which it read the hello late, for the one that counts. */
export function onRefusedPing(link: Link): void {
  link.isUnknown = true
}

/** Also while it is greeted: a prefill that replaces its engine answers hello late, but it lives. */
export function ping(step: DecodeStep, link: Link): void {
  if (link.status === 'connecting' || !isPingDue(step, link)) return
  link.pinged = step.now
  if (link.isUnknown) greet(step, link)
  sendTo(step, link, { k: 'ping', live: link.legs.size })
  if (link.status === 'ready') tellQueued(step, link)
}

/** Said again with every ping: prefill waits for these requests as long as it is said. */
function tellQueued(step: DecodeStep, link: Link): void {
  const open = [...link.waiting].filter(({ phase }) => phase === 'open')
  for (let first = 0; first < open.length; first += maxSamples) {
    const rooms = open
      .slice(first, first + maxSamples)
      .map(({ room, index }): [bigint, number] => [room, index])
    sendTo(step, link, { k: 'queued', gen: step.state.engine.generation, rooms })
  }
}

/** A lost rank was perhaps only slow: then it can still say `drained`. */
export function greetLost(step: DecodeStep, link: Link): void {
  if (!isPingDue(step, link) || link.legs.size === 0 || link.fencing) return
  if (step.state.recycle?.phase === 'closing') return
  link.pinged = step.now
  sayHello(step, link)
}

function isPingDue(step: DecodeStep, link: Link): boolean {
  return step.now - link.pinged >= step.state.self.deadlines.ping
}
