/** Routes: which ranks of a prefill instance a request is sent by. */
import { KvxError } from '@kvx/contract'
import { dpRankOf, requiredPrefillRanks } from '../../share/index.ts'
import { addLink, greet } from './link.ts'
import { forgetIfIdle, replaceLink } from './loss.ts'
import { advance, failRequest, hurry } from './request.ts'
import type { DecodeStep, Link, Request, Route, Source, SourceRank } from './state.ts'

/** Gives a request its legs, one for each rank that holds bytes for it. */
export function attach(step: DecodeStep, request: Request, source: Source): void {
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
    heard: step.now,
    failedAt: 0,
    drained: true,
    tries: 0,
    landed: 0,
    expected: 0,
    consumed: false,
    outcome: undefined,
  }))
  for (const link of links) link.waiting.add(request)
  const isDoubtful = source.down !== undefined || links.some(({ doubtful }) => doubtful)
  if (isDoubtful && links.some(({ status }) => status !== 'ready')) hurry(step, request)
  advance(step, request)
}

/** Takes the requests that have not reserved yet off their links: they can go elsewhere. */
export function detachEarly(source: Source): Request[] {
  source.routes.clear()
  const early = [...source.requests].filter((r) => r.phase === 'resolving' || r.phase === 'open')
  for (const request of early) {
    for (const { link } of request.legs) link.waiting.delete(request)
    request.legs = []
    request.route = undefined
  }
  return early
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
  const { rank, shape } = step.state.self
  const required = requiredPrefillRanks(shape, rank, ranks, dp)
  makeRoom(step, required)
  const route = { links: required.map((found) => linkTo(step, found)) }
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
