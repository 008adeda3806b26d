/** A room: the request of this side's host and the reserves of all decode ranks for it, paired when they are here. */
import { sameBytes } from '../keys.ts'
import { sameRank } from '../../share/index.ts'
import { tell } from './send.ts'
import type { PrefillStep, Room, Sender, Transfer } from './state.ts'
import { askForPages } from './transfer.ts'
import { firstNeeded } from './written.ts'

export function roomOf(step: PrefillStep, key: string): Room {
  let room = step.state.rooms.get(key)
  if (!room) {
    room = { key, sender: undefined, transfers: new Set() }
    step.state.rooms.set(key, room)
  }
  return room
}

/** Pairs the room when its prefill leg and all decode ranks that this rank serves are here. */
export function pair(step: PrefillStep, room: Room): boolean {
  const { state } = step
  const { sender } = room
  if (sender?.phase !== 'waiting' || state.recycle) return false
  for (const first of room.transfers) {
    if (first.phase !== 'parked' || first.peer.link !== 'open') continue
    const targets = first.peer.served.map((rank) =>
      [...room.transfers].find(
        (t) =>
          t.phase === 'parked' &&
          t.peer.link === 'open' &&
          t.peer.instance === first.peer.instance &&
          sameRank(t.peer.rank, rank),
      ),
    )
    if (!targets.every((t) => t !== undefined)) continue
    for (const target of targets) {
      target.phase = 'paired'
      target.deadline = Infinity
      tell(step, target, { k: 'accept', state: 'paired' })
      if (sender.wantsPages) askForPages(step, target)
    }
    sender.phase = 'paired'
    sender.deadline = Infinity
    sender.targets = targets
    step.out.push({
      do: 'sender.reserved',
      sender: sender.id,
      prefixTokens: Math.min(...targets.map(({ prompt }) => prompt.prefix)),
      firstTokens: firstTokens(step, sender),
    })
    return true
  }
  return false
}

/** A reserve of another prompt: the legs of this room do not belong together. */
export function findMismatch(room: Room, { tokens, digest }: Sender): Transfer | undefined {
  return [...room.transfers].find(
    (t) => t.phase === 'parked' && !(t.prompt.tokens === tokens && sameBytes(t.digest, digest)),
  )
}

/** Of each component of pages, the first token that any decode rank needs. */
function firstTokens({ state }: PrefillStep, sender: Sender): Record<string, number> {
  const paged = state.self.shape.components.filter(({ addressed }) => addressed === 'tokens')
  return Object.fromEntries(paged.map(({ name }) => [name, firstNeeded(sender, name)]))
}
