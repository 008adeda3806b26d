/** Sources: prefill instances, watched at their bootstrap while requests use them. */
import { KvxError } from '@kvx/contract'
import { count } from '../keys.ts'
import type { Message } from '../messages.ts'
import { isRegistered } from './link.ts'
import { replaceLink } from './loss.ts'
import { addRequest, failRequest, hurry } from './request.ts'
import { attach, detachEarly } from './route.ts'
import type { DecodeEvent, DecodeStep, Link, Request, Source } from './state.ts'

export function onReceive(step: DecodeStep, event: DecodeEvent & { type: 'host.receive' }): void {
  const request = addRequest(step, event)
  const source = sourceOf(step, request.from)
  if (!source) {
    const text = `${String(step.state.sources.size)} bootstrap services are already in use here.`
    failRequest(
      step,
      request,
      new KvxError('ERR_KVX_OVER_LIMIT', text, { phase: 'bootstrap', peer: request.from }),
    )
    return
  }
  source.requests.add(request)
  source.used = step.now
  if (source.ranks) attach(step, request, source)
  else if (source.down) onDown(step, request, source.down)
}

function sourceOf(step: DecodeStep, from: string): Source | undefined {
  const { sources, self } = step.state
  const known = sources.get(from)
  if (known) return known
  if (sources.size >= self.limits.peers) return undefined
  const source: Source = {
    from,
    ranks: undefined,
    routes: new Map(),
    down: undefined,
    requests: new Set(),
    used: step.now,
  }
  sources.set(from, source)
  step.out.push({ do: 'watchSource', from })
  return source
}

export function onSourceRead(step: DecodeStep, event: DecodeEvent & { type: 'source.read' }): void {
  const source = step.state.sources.get(event.from)
  if (!source) return
  source.down = undefined
  source.ranks = event.ranks
  const early = detachEarly(step, source)
  for (const rank of event.ranks) {
    const link = step.state.links.get(rank.endpoint)
    if (link && link.incarnation !== rank.incarnation) replaceLink(step, link)
  }
  for (const request of early) if (!request.error) attach(step, request, source)
}

export function onSourceFailed(
  step: DecodeStep,
  event: DecodeEvent & { type: 'source.failed' },
): void {
  const source = step.state.sources.get(event.from)
  if (!source) return
  source.down = event.error
  for (const request of source.requests) {
    if (request.phase === 'resolving' || request.phase === 'routing')
      onDown(step, request, event.error)
  }
}

/** It may be back in a moment, unless its answer was a refusal. */
function onDown(step: DecodeStep, request: Request, error: KvxError): void {
  if (error.retryable) hurry(step, request)
  else failRequest(step, request, error)
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

/** Another process serves where a rank was: who it is, the bootstrap will tell. */
function outdate(step: DecodeStep, link: Link): void {
  for (const source of step.state.sources.values()) {
    if (!isRegistered(source, link)) continue
    source.ranks = undefined
    detachEarly(step, source)
  }
}

/** Stops watching what nobody has used for the linger. */
export function watchSource(step: DecodeStep, source: Source): void {
  const { sources, self } = step.state
  if (source.requests.size > 0 || step.now - source.used < self.deadlines.linger) return
  sources.delete(source.from)
  step.out.push({ do: 'unwatchSource', from: source.from })
}
