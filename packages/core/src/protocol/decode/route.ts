/** Routes: which ranks of a prefill instance a request is sent by. */
import { KvxError } from '@kvx/contract'
import { chosenDpRank, requiredPrefillRanks } from '../../share/index.ts'
import { roomKey } from '../keys.ts'
import { addLink, greet } from './link.ts'
import { forgetIfIdle, replaceLink } from './loss.ts'
import { advance, askPublished, failRequest, hurry, unaskPublished } from './request.ts'
import type { DecodeEvent, DecodeStep, Link, Request, Route, Source, SourceRank } from './state.ts'

/** Gives a request its legs, one for each rank that holds bytes for it, once it is known which ranks compute it. */
export function attach(step: DecodeStep, request: Request, source: Source): void {
  try {
    const dp = dpOf(request, source)
    if (dp === undefined) {
      awaitPublished(step, request)
      return
    }
    request.route = routeOf(step, source, dp)
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
    heard: step.now,
    failedAt: 0,
    drained: true,
    tries: 0,
    landed: 0,
    expected: 0,
    consumed: false,
    outcome: undefined,
    loads: new Map(),
    endedTo: 0,
    ended: new Set(),
    stagedBytes: 0,
  }))
  for (const link of links) link.waiting.add(request)
  const isDoubtful = source.down !== undefined || links.some(({ doubtful }) => doubtful)
  if (isDoubtful && links.some(({ status }) => status !== 'ready')) hurry(step, request)
  advance(step, request)
}

/** @throws KvxError `ERR_KVX_INVALID_ARGUMENT` for a rank that prefill does not have */
function dpOf(request: Request, { ranks }: Source): number | undefined {
  const [first] = ranks ?? []
  const dpSize = first?.rank.dpSize ?? 1
  const dp = chosenDpRank(request, dpSize, request.published)
  if (dp === undefined || dp < dpSize) return dp
  const text = `dpRank of room ${request.key} must be from 0 to ${String(dpSize - 1)}, as ${first?.instance ?? 'prefill'} has ${String(dpSize)} data-parallel ranks, got ${String(dp)}.`
  throw new KvxError('ERR_KVX_INVALID_ARGUMENT', text, {
    phase: 'bootstrap',
    peer: first?.instance,
  })
}

function awaitPublished(step: DecodeStep, request: Request): void {
  const { deadlines, since } = request
  request.phase = 'routing'
  request.deadline = Math.min(step.now + deadlines.pairing, since + deadlines.queue)
  askPublished(step, request)
}

/** The request goes to these ranks; or it went to others, where nobody will send it. */
export function onPublished(
  step: DecodeStep,
  event: DecodeEvent & { type: 'source.published' },
): void {
  const request = step.state.rooms.get(roomKey(event.room, event.index))
  const source = step.state.sources.get(event.from)
  if (request?.from !== event.from || !source) return
  request.asked = false
  if (request.phase === 'routing') {
    request.published = event.dp
    request.phase = 'resolving'
    request.soughtSince = step.now
    request.deadline = step.now + request.deadlines.hello
    attach(step, request, source)
  } else if (request.phase === 'accepted' && request.route && request.route.dp !== event.dp) {
    failRequest(step, request, disagreement(request, request.route, event.dp))
  }
}

function disagreement({ key, dpRank }: Request, { dp, links }: Route, published: number): KvxError {
  const why =
    dpRank === undefined ? 'room mod dpSize' : dpRank === 'published' ? 'published before' : 'given'
  const text = `Room ${key} was sent to data-parallel rank ${String(dp)} of prefill (${why}), and prefill has published rank ${String(published)} for it: state the same dpRank on both sides.`
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', text, {
    phase: 'parked',
    peer: links[0]?.instance,
  })
}

/** Takes the requests that have not reserved yet off their links: they can go elsewhere. */
export function detachEarly(step: DecodeStep, source: Source): Request[] {
  source.routes.clear()
  const early = [...source.requests].filter(
    ({ phase }) => phase === 'resolving' || phase === 'routing' || phase === 'open',
  )
  for (const request of early) {
    // Another process may have published it.
    unaskPublished(step, request)
    request.published = undefined
    if (request.phase === 'routing') {
      request.phase = 'resolving'
      request.deadline = step.now + request.deadlines.hello
    }
    for (const { link } of request.legs) link.waiting.delete(request)
    request.legs = []
    request.route = undefined
  }
  return early
}

function routeOf(step: DecodeStep, source: Source, dp: number): Route {
  const ranks = source.ranks ?? []
  const known = source.routes.get(dp)
  // A link that was lost and forgotten is made again.
  if (known?.links.every((link) => step.state.links.get(link.endpoint) === link)) {
    for (const link of known.links) linkTo(step, link)
    return known
  }
  const { rank, shape } = step.state.self
  const required = requiredPrefillRanks(shape, rank, ranks, dp)
  makeRoom(step, required)
  const route = { dp, links: required.map((found) => linkTo(step, found)) }
  source.routes.set(dp, route)
  return route
}

/** The link to a rank that is registered, so that it should live. */
function linkTo(step: DecodeStep, rank: SourceRank): Link {
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
  return addLink(step, rank)
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
  for (const link of links.values()) forgetIfIdle(step, link)
  if (links.size + added <= self.limits.peers) return
  const [{ instance } = { instance: undefined }] = ranks
  throw new KvxError(
    'ERR_KVX_OVER_LIMIT',
    `${String(links.size)} prefill ranks are already in use here; ${String(added)} more are more than the limit of ${String(self.limits.peers)}.`,
    { phase: 'bootstrap', peer: instance },
  )
}
