/** What must be left when everything has ended: nothing. The one check that looks into the reducers. */
import { components } from './content.ts'
import type { DecodeRank } from './decode.ts'
import type { PrefillRank } from './prefill.ts'
import type { World } from './world.ts'

/** What is left, in words, or undefined. */
export function leftover(world: World): string | undefined {
  for (const { process } of world.prefillSlots) {
    const left = callers(process) ?? prefillTables(world, process) ?? pages(world, process)
    if (left !== undefined) return `${process.name} ${left}`
  }
  for (const { process } of world.decodeSlots) {
    const left = callers(process) ?? decodeTables(process) ?? pages(world, process)
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

/** Pages are free; or they are rightly taken, because nobody can say that their writes have ended. */
function pages(world: World, process: PrefillRank | DecodeRank): string | undefined {
  for (const name of components) {
    for (const [page, owner] of process.books[name].owners.entries()) {
      if (owner === undefined) continue
      if (owner !== 'occupier' && owner.side === 'prefill' && world.engines.isAbandoned(owner))
        continue
      return `still holds page ${page} of ${name}`
    }
  }
  return undefined
}

function prefillTables(world: World, process: PrefillRank): string | undefined {
  const { state } = process
  const abandoned = [...process.legs.values()].filter((leg) =>
    world.engines.isAbandoned(leg),
  ).length
  const counts = {
    rooms: state.rooms.size,
    'ended legs': state.ended.size,
    requests: state.senders.size - abandoned,
    pieces: [...state.pieces.values()].filter((piece) => !piece.abandoned).length,
    connections: state.connections.size - world.decodeSlots.length > 0 ? state.connections.size : 0,
  }
  for (const [what, count] of Object.entries(counts))
    if (count > 0) return `still has ${count} ${what}`
  for (const peer of state.peers.values()) {
    if ([...peer.transfers.values()].some(({ unsettled }) => unsettled > 0) && abandoned > 0)
      continue
    const left = peer.transfers.size + peer.queue.length + peer.inFlight
    if (left > 0) return `still has something of ${peer.instance}`
    if (!world.decodeSlots.some((slot) => slot.process.incarnation === peer.incarnation))
      return `still knows a dead process of ${peer.instance}`
  }
  return undefined
}

function decodeTables({ state }: DecodeRank): string | undefined {
  const counts = {
    requests: state.requests.size,
    rooms: state.rooms.size,
    'bootstrap services': state.sources.size,
    legs: [...state.links.values()].reduce((sum, { legs }) => sum + legs.size, 0),
  }
  for (const [what, count] of Object.entries(counts))
    if (count > 0) return `still has ${count} ${what}`
  return undefined
}
