/** Why a request has ended at its deadline: whom it waited for, and for what. */
import { KvxError } from '@kvx/contract'
import { about } from './send.ts'
import type { DecodeState, Leg, Request } from './state.ts'

export function lateness({ sources }: DecodeState, request: Request): KvxError {
  const legs = request.legs.filter((l) => l.phase !== 'complete')
  const leg = legs.find((l) => l.link.status !== 'ready') ?? legs[0]
  const down = sources.get(request.from)?.down
  if (!leg) {
    if (request.phase === 'routing' && down === undefined) return neverPublished(sources, request)
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

function neverPublished(sources: DecodeState['sources'], { key, from, deadlines }: Request) {
  const instance = sources.get(from)?.ranks?.[0]?.instance
  const text = `${instance ?? 'Prefill'} has published no data-parallel rank for room ${key} within ${String(deadlines.pairing)} ms: its leg did not come, or was sent without dpRank 'published'.`
  return new KvxError('ERR_KVX_ROOM_UNKNOWN', text, { phase: 'bootstrap', peer: instance })
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
