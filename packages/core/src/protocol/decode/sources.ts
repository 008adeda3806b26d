/** Prefill instances: watched at their bootstrap, and which of their ranks a request needs. */
import { KvxError } from '@kvx/contract'
import { dpRankOf, requiredPrefillRanks } from '../topology.ts'
import { forgetIfIdle, linkTo, replaceLink } from './links.ts'
import { advance, failRequest } from './requests.ts'
import type { DecodeEvent, DecodeStep, Link, Request, Route, Source, SourceRank } from './state.ts'

/** Gives a request its links, or has them looked for. */
export function resolve(step: DecodeStep, request: Request): void {
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

/** Its peer is known to be lost: what may be back in a moment is not waited for as long. */
function hurry(step: DecodeStep, request: Request): void {
  if (request.phase !== 'resolving') return
  const { probe } = request.deadlines
  request.deadline = Math.min(request.deadline, Math.max(step.now, request.since + probe))
}

export function onSourceRead(step: DecodeStep, event: DecodeEvent & { type: 'source.read' }): void {
  const source = step.state.sources.get(event.from)
  if (!source) return
  source.down = undefined
  source.ranks = event.ranks
  const early = detachEarly(source)
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
  for (const request of [...source.requests]) {
    if (request.phase === 'resolving') onDown(step, request, event.error)
  }
}

/** It may be back in a moment, unless its answer was a refusal. */
function onDown(step: DecodeStep, request: Request, error: KvxError): void {
  if (error.retryable) hurry(step, request)
  else failRequest(step, request, error)
}

/** Another process serves where a rank was: who it is, the bootstrap will tell. */
export function outdate(step: DecodeStep, link: Link): void {
  for (const source of step.state.sources.values()) {
    if (!isRegistered(source, link)) continue
    source.ranks = undefined
    detachEarly(source)
  }
}

function isRegistered({ ranks }: Source, { endpoint, incarnation }: Link): boolean {
  return ranks?.some((r) => r.endpoint === endpoint && r.incarnation === incarnation) ?? false
}

/** Whether new requests would use this link. */
export function isWanted(step: DecodeStep, link: Link): boolean {
  for (const source of step.state.sources.values()) if (isRegistered(source, link)) return true
  return false
}

/** Takes the requests that have not reserved yet off their links: they can go elsewhere. */
function detachEarly(source: Source): Request[] {
  source.routes.clear()
  const early = [...source.requests].filter((r) => r.phase === 'resolving' || r.phase === 'open')
  for (const request of early) {
    for (const { link } of request.legs) link.waiting.delete(request)
    request.legs = []
    request.route = undefined
  }
  return early
}

function attach(step: DecodeStep, request: Request, source: Source): void {
  try {
    request.route = routeOf(step, source, request.room)
  } catch (error) {
    failRequest(step, request, error as KvxError)
    return
  }
  const { links } = request.route
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
    consumed: false,
    outcome: undefined,
  }))
  for (const link of links) link.waiting.add(request)
  const isDoubtful = source.down !== undefined || links.some(({ doubtful }) => doubtful)
  if (isDoubtful && links.some(({ status }) => status !== 'ready')) hurry(step, request)
  advance(step, request)
}

function routeOf(step: DecodeStep, source: Source, room: bigint): Route {
  const ranks = source.ranks ?? []
  const dp = dpRankOf(room, ranks[0]?.rank.dpSize ?? 1)
  const known = source.routes.get(dp)
  // A link that was lost and forgotten is made again.
  if (known?.links.every((link) => step.state.links.get(link.endpoint) === link)) {
    for (const link of known.links) linkTo(step, link)
    return known
  }
  const { rank, layout } = step.state.self
  const required = requiredPrefillRanks(rank, ranks, layout.heads, dp)
  makeRoom(step, required)
  const route = { links: required.map((found) => linkTo(step, found)), covered: false }
  source.routes.set(dp, route)
  return route
}

/**
 * For links to all of these ranks, if need be in place of links that no watched bootstrap names.
 *
 * @throws KvxError `ERR_KVX_OVER_LIMIT`
 */
function makeRoom(step: DecodeStep, ranks: readonly SourceRank[]): void {
  const { links, self } = step.state
  const added = ranks.filter(({ endpoint }) => !links.has(endpoint)).length
  if (added === 0 || links.size + added <= self.limits.peers) return
  for (const link of [...links.values()]) forgetIfIdle(step, link)
  if (links.size + added <= self.limits.peers) return
  const [{ instance } = { instance: undefined }] = ranks
  throw new KvxError(
    'ERR_KVX_OVER_LIMIT',
    `${String(links.size)} prefill ranks are already in use here; ${String(added)} more are more than the limit of ${String(self.limits.peers)}.`,
    { phase: 'bootstrap', peer: instance },
  )
}

/** A request has ended. */
export function leaveSource(step: DecodeStep, request: Request): void {
  step.state.sources.get(request.from)?.requests.delete(request)
}

/** Stops watching what nobody has used for the linger. */
export function watchSources(step: DecodeStep): void {
  const { sources, self } = step.state
  for (const source of [...sources.values()]) {
    if (source.requests.size > 0 || step.now - source.used < self.deadlines.linger) continue
    sources.delete(source.from)
    step.out.push({ do: 'unwatchSource', from: source.from })
  }
}
