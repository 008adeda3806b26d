/** What must be left when everything has ended: nothing. The one check that looks into the reducers. */
import { components } from './content.ts'
import type { DecodeRank } from './decode.ts'
import type { PrefillRank } from './prefill.ts'
import type { World } from './world.ts'

interface Abandonable {
  readonly abandoned: boolean
  readonly transfer: {
    readonly generation: string
    readonly peer: { readonly incarnation: string }
  }
}

/** What is left, in words, or undefined. */
export function leftover(world: World): string | undefined {
  for (const { process } of world.prefillSlots) {
    const left = callers(process) ?? prefillTables(world, process) ?? pages(process)
    if (left !== undefined) return `${process.name} ${left}`
  }
  for (const { process } of world.decodeSlots) {
    const left = callers(process) ?? decodeTables(world, process) ?? pages(process)
    if (left !== undefined) return `${process.name} ${left}`
  }
  return undefined
}

function callers(process: PrefillRank | DecodeRank): string | undefined {
  for (const { phase, job } of process.legs.values())
    if (phase !== 'success' && phase !== 'failed')
      return `still waits for room ${job.room}, which is ${phase}`
  return undefined
}

/** Also rightly in quarantine is nothing any more: every writer is gone, fenced or heard. */
function pages(process: PrefillRank | DecodeRank): string | undefined {
  for (const name of components) {
    const page = process.books[name].owners.findIndex((owner) => owner !== undefined)
    if (page >= 0) return `still holds page ${page} of ${name}`
  }
  return undefined
}

/**
 * Nothing, but for one record: of a transfer whose writes were abandoned, and whose target has died or has closed
 * the engine that they went to, and has had no reason to say hello since. An abort of it would still have to go
 * unanswered.
 */
function prefillTables(world: World, { state }: PrefillRank): string | undefined {
  const isDead = (incarnation: string) => world.decodeOf(incarnation)?.alive !== true
  const isRecord = ({ abandoned, transfer: { peer, generation } }: Abandonable) =>
    abandoned &&
    (isDead(peer.incarnation) || world.decodeOf(peer.incarnation)?.current !== generation)
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
function decodeTables(world: World, { state }: DecodeRank): string | undefined {
  const links = [...state.links.values()]
  const alive = new Set(world.prefillSlots.map(({ process }) => process.incarnation))
  const counts = {
    requests: state.requests.size,
    rooms: state.rooms.size,
    'bootstrap services': state.sources.size,
    legs: links.reduce((sum, { legs, waiting }) => sum + legs.size + waiting.size, 0),
    'links to dead processes': links.filter(({ incarnation }) => !alive.has(incarnation)).length,
  }
  for (const [what, count] of Object.entries(counts))
    if (count > 0) return `still has ${count} ${what}`
  return undefined
}
