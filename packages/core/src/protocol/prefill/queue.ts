/** Queues: a request that waits for its turn at one side is waited for at the other. */
import { roomKey } from '../keys.ts'
import type { MessageOf } from '../messages.ts'
import type { Peer, PrefillStep } from './state.ts'

export function onHostQueued(step: PrefillStep, id: number, queued: boolean): void {
  const sender = step.state.senders.get(id)
  if (sender) sender.queued = queued
}

/** Decode lives, and these requests wait for their turn there: so do their legs here. */
export function onQueued(step: PrefillStep, peer: Peer, message: MessageOf<'queued'>): void {
  for (const [number, index] of message.rooms) {
    const room = step.state.rooms.get(roomKey(number, index))
    const { sender } = room ?? {}
    if (room === undefined || sender?.phase !== 'waiting') continue
    sender.queuedBy = peer
    sender.deadline = Math.min(step.now + sender.deadlines.pairing, sender.queueEnd)
    for (const transfer of room.transfers) {
      if (transfer.phase !== 'parked' || transfer.peer.instance !== peer.instance) continue
      transfer.deadline = Math.max(transfer.deadline, sender.deadline)
    }
  }
}
