/** What the loss of a prefill rank means: its requests fail, its writes are fenced, and it is forgotten once it is over. */
import type { KvxError } from '@kvx/contract'
import type { PeerGone } from '../keys.ts'
import { greetLost, isRegistered, ping } from './link.ts'
import { failRequest } from './request.ts'
import { about } from './send.ts'
import type { DecodeStep, Link } from './state.ts'

/** Fails what runs over the link; its pages stay with their leases until drained or fenced. */
export function loseLink(step: DecodeStep, link: Link, error: KvxError): void {
  link.status = 'lost'
  link.doubtful = true
  for (const request of link.waiting) failRequest(step, request, error)
  for (const { request } of link.legs.values()) failRequest(step, request, error)
  const { fence } = step.state.self
  if (link.legs.size > 0 && link.writer !== undefined && fence !== 'engine' && !link.fencing) {
    link.fencing = fence === 'peer'
    step.out.push({ do: 'fence', writer: link.writer })
  }
  forgetIfOver(step, link)
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

/** Its silence need not be waited for, nor its return. */
export function onPeerGone(step: DecodeStep, { generation, reason }: PeerGone): void {
  for (const link of step.state.links.values()) {
    if (link.writer !== generation || link.status === 'lost') continue
    loseLink(step, link, about(link, 'ERR_KVX_PEER_LOST', 'transfer', `is gone. ${reason}`))
  }
}

export function watchLink(step: DecodeStep, link: Link): void {
  const { deadlines } = step.state.self
  forgetIfOver(step, link)
  if (link.status === 'lost') {
    greetLost(step, link)
  } else if (step.now - link.heard > deadlines.peerSilent) {
    const silence = `has been silent for ${String(deadlines.peerSilent)} ms.`
    const phase = link.pairing ? 'transfer' : 'hello'
    loseLink(step, link, about(link, 'ERR_KVX_PEER_LOST', phase, silence))
  } else {
    ping(step, link)
  }
}

export function forgetIfOver(step: DecodeStep, link: Link): void {
  if (link.status === 'lost') forgetIfIdle(step, link)
}

export function forgetIfIdle(step: DecodeStep, link: Link): void {
  if (link.legs.size > 0 || link.waiting.size > 0) return
  // While it is registered the connection is tried on, for the requests to come.
  for (const source of step.state.sources.values()) if (isRegistered(source, link)) return
  if (step.state.links.get(link.endpoint) !== link) return
  step.state.links.delete(link.endpoint)
  step.out.push({ do: 'disconnect', endpoint: link.endpoint })
}
