/** What must be left when everything has ended: nothing. The one check that looks into the reducers. */
import { hasEnded } from '../books/legs.ts'
import type { AnyRank, Cast } from '../ranks/cast.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { PrefillRank } from '../ranks/prefill.ts'

interface Abandonable {
  readonly abandoned: boolean
  readonly transfer: {
    readonly generation: string
    readonly peer: { readonly incarnation: string }
  }
}

/** What is left, in words, or undefined. */
export function leftover(cast: Cast): string | undefined {
  for (const { process } of cast.prefills) {
    const left = callers(process) ?? prefillTables(cast, process) ?? pages(process)
    if (left !== undefined) return `${process.name} ${left}`
  }
  for (const { process } of cast.decodes) {
    const left = callers(process) ?? decodeTables(cast, process) ?? pages(process)
    if (left !== undefined) return `${process.name} ${left}`
  }
  return undefined
}

function callers(process: AnyRank): string | undefined {
  for (const leg of process.legs.values())
    if (!hasEnded(leg)) return `still waits for room ${leg.job.room}, which is ${leg.phase}`
  return undefined
}

/** Also rightly in quarantine is nothing any more: every writer is gone, fenced or heard. */
function pages(process: AnyRank): string | undefined {
  for (const [name, { owners }] of process.books) {
    const page = owners.findIndex((owner) => owner !== undefined)
    if (page >= 0) return `still holds page ${page} of ${name}`
  }
  return undefined
}

/**
 * Nothing, but for one record: of a transfer whose writes were abandoned, and whose target has died or has closed
 * the engine that they went to, and has had no reason to say hello since. An abort of it would still have to go
 * unanswered.
 */
function prefillTables(cast: Cast, { state }: PrefillRank): string | undefined {
  const isDead = (incarnation: string) => cast.decodeOf(incarnation)?.alive !== true
  const isRecord = ({ abandoned, transfer: { peer, generation } }: Abandonable) =>
    abandoned &&
    (isDead(peer.incarnation) || cast.decodeOf(peer.incarnation)?.current !== generation)
  const pieces = [...state.pieces.values()]
  const records = new Set(pieces.filter(isRecord).map(({ transfer }) => transfer))
  const rooms = [...state.rooms.values()].filter(
    ({ sender, transfers }) =>
      sender !== undefined ||
      transfers.size === 0 ||
      ![...transfers].every((transfer) => records.has(transfer)),
  )
  const counts = {
    rooms: rooms.length,
    'ended legs': state.ended.size,
    requests: state.senders.size,
    pieces: pieces.filter((piece) => !isRecord(piece)).length,
    bays: state.bays.taken.filter(Boolean).length,
  }
  for (const [what, count] of Object.entries(counts))
    if (count > 0) return `still has ${count} ${what}`
  for (const peer of state.peers.values()) {
    const transfers = [...peer.transfers.values()].filter((transfer) => !records.has(transfer))
    if (transfers.length + peer.queue.length + peer.inFlight > 0)
      return `still has something of ${peer.instance}`
    if (isDead(peer.incarnation) && peer.transfers.size === 0)
      return `still knows a dead process of ${peer.instance}`
  }
  for (const incarnation of state.connections.values())
    if (isDead(incarnation)) return 'still has a connection of a dead process'
  return undefined
}

/** Links to living prefill processes stay, for the next request. */
function decodeTables(cast: Cast, { state }: DecodeRank): string | undefined {
  const links = [...state.links.values()]
  const alive = new Set(cast.prefills.map(({ process }) => process.incarnation))
  const counts = {
    requests: state.requests.size,
    rooms: state.rooms.size,
    'bootstrap services': state.sources.size,
    bays: state.bays.taken.filter(Boolean).length,
    'loads that wait': state.bayQueue.length,
    legs: links.reduce((sum, { legs, waiting }) => sum + legs.size + waiting.size, 0),
    'links to dead processes': links.filter(({ incarnation }) => !alive.has(incarnation)).length,
  }
  for (const [what, count] of Object.entries(counts))
    if (count > 0) return `still has ${count} ${what}`
  return undefined
}
