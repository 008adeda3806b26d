/** What must be left when everything has ended: nothing. The one check that looks into the reducers. */
import type { Side } from './parts.ts'
import type { Turn } from './turn.ts'

/** What has not ended, in words, or undefined. */
export function unrest(turn: Turn): string | undefined {
  const { cast, books, spec } = turn
  const isGone = (side: Side) => spec.staysDead && !cast[side].isAlive
  for (const side of ['prefill', 'decode'] as const)
    if (!turn.runs(side) && !isGone(side))
      return `${side} ${cast[side].isAlive ? 'stands still' : 'is dead'}`
  for (const [job, { isClean, send, receive }] of books.jobs.entries()) {
    for (const [side, { phase, end }] of [
      ['prefill', send],
      ['decode', receive],
    ] as const) {
      if (isGone(side)) continue
      if (side === 'prefill' && spec.lacks === 'prefill leg' && job === spec.jobs - 1) continue
      if (phase !== 'settled' && phase !== 'gone')
        return `the host of ${side} waits for room ${String(job)}, which is ${phase}`
      if (isClean && !spec.slowHosts && end !== 'success')
        return `room ${String(job)} failed at ${side}, and no fault has hit it`
    }
  }
  return (
    (cast.prefill.isAlive ? prefillUnrest(turn) : undefined) ??
    (cast.decode.isAlive ? decodeUnrest(turn) : undefined)
  )
}

/** A transfer whose writes were abandoned is remembered until decode says hello with another engine. */
function prefillUnrest({ ground, prefill, cast }: Turn): string | undefined {
  const state = ground.prefills.at(prefill)
  const isDead = (incarnation: string) =>
    !cast.decode.isAlive || incarnation !== cast.decode.incarnation
  const records = new Set(
    [...state.pieces.values()]
      .filter(
        ({ abandoned, transfer: { peer, generation } }) =>
          abandoned && (isDead(peer.incarnation) || generation !== cast.decode.generation),
      )
      .map(({ transfer }) => transfer),
  )
  const rooms = [...state.rooms.values()].filter(
    ({ sender, transfers }) => sender ?? ![...transfers].every((one) => records.has(one)),
  )
  const peers = [...state.peers.values()]
  const counts = {
    rooms: rooms.length,
    'ended rooms': state.ended.size,
    requests: state.senders.size,
    writes: [...state.pieces.values()].filter(({ transfer }) => !records.has(transfer)).length,
    transfers: peers
      .flatMap(({ transfers }) => [...transfers.values()])
      .filter((one) => !records.has(one)).length,
    'queued writes': peers.reduce((sum, { queue }) => sum + queue.length, 0),
    credits: peers.reduce((sum, { inFlight }) => sum + inFlight, 0),
    'dead peers': peers.filter(
      ({ incarnation, transfers }) => isDead(incarnation) && transfers.size === 0,
    ).length,
    'connections of dead peers': [...state.connections.values()].filter(isDead).length,
    'engines to be replaced': state.recycle ? 1 : 0,
  }
  return leftOver('prefill', counts)
}

function decodeUnrest({ ground, decode, cast }: Turn): string | undefined {
  const state = ground.decodes.at(decode)
  const links = [...state.links.values()]
  return leftOver('decode', {
    requests: state.requests.size,
    rooms: state.rooms.size,
    'bootstrap services': state.sources.size,
    legs: links.reduce((sum, { legs, waiting }) => sum + legs.size + waiting.size, 0),
    'links to dead processes': links.filter(
      ({ incarnation }) => !cast.prefill.isAlive || incarnation !== cast.prefill.incarnation,
    ).length,
    'engines to be replaced': state.recycle ? 1 : 0,
  })
}

function leftOver(side: string, counts: Readonly<Record<string, number>>): string | undefined {
  const left = Object.entries(counts).find(([, count]) => count > 0)
  return left && `${side} still has ${left.map(String).reverse().join(' ')}`
}
