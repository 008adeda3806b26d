/** Why something has ended at its deadline: what it waited for, and for how long. */
import { KvxError } from '@kvx/contract'
import { rankName } from '../../share/index.ts'
import { peerName } from './send.ts'
import type { Piece, PrefillState, Sender, Transfer } from './state.ts'

/** Why a reserve was parked for too long. */
export function unpaired({ self, rooms }: PrefillState, { key, consumed }: Transfer): KvxError {
  const ms = String(self.deadlines.pairing)
  const [code, text] = rooms.get(key)?.sender
    ? (['ERR_KVX_TIMEOUT', `waited ${ms} ms for the reserves of other decode ranks.`] as const)
    : consumed
      ? (['ERR_KVX_ROOM_CONSUMED', `was sent before, and no other leg came in ${ms} ms.`] as const)
      : (['ERR_KVX_ROOM_UNKNOWN', `waited ${ms} ms for its prefill leg in vain.`] as const)
  const { instance, rank } = self
  return new KvxError(code, `Room ${key} ${text}`, {
    phase: 'parked',
    peer: instance,
    rank: rankName(rank),
  })
}

/** Why a reserve that was asked for its pages is not waited for any longer. */
export function neverProvided({ self }: PrefillState, { key, peer }: Transfer): KvxError {
  return new KvxError(
    'ERR_KVX_TIMEOUT',
    `${peerName(peer)} was asked for the pages of room ${key}, and gave none within ${String(self.deadlines.progress)} ms.`,
    { phase: 'paired', peer: peer.instance, rank: rankName(peer.rank) },
  )
}

/** Why a host does not wait any longer for a reserve. */
export function neverReserved(sender: Sender, now: number): KvxError {
  const { key, queuedBy, queueEnd, deadlines } = sender
  if (queuedBy === undefined) {
    return new KvxError(
      'ERR_KVX_TIMEOUT',
      `Room ${key} waited ${String(deadlines.pairing)} ms for decode to reserve pages. Is decode running, and was it sent the same room?`,
      { phase: 'reserve' },
    )
  }
  const text =
    now >= queueEnd
      ? `had room ${key} in its queue for ${String(deadlines.queue)} ms.`
      : `had room ${key} in its queue, and has said nothing of it for ${String(deadlines.pairing)} ms.`
  return new KvxError('ERR_KVX_TIMEOUT', `${peerName(queuedBy)} ${text}`, {
    phase: 'reserve',
    peer: queuedBy.instance,
    rank: rankName(queuedBy.rank),
  })
}

/** Why a host does not wait any longer for the acknowledgement of decode. */
export function neverAcked({ key, targets, deadlines }: Sender): KvxError {
  const silent = targets.find((t) => !t.acked)
  return new KvxError(
    'ERR_KVX_TIMEOUT',
    `Decode did not acknowledge room ${key} within ${String(deadlines.linger)} ms.`,
    {
      phase: 'complete',
      peer: silent?.peer.instance,
      ...(silent ? { rank: rankName(silent.peer.rank) } : {}),
    },
  )
}

/** Why a write that may still run counts as failed, or a load that decode does not answer. */
export function neverEnded({ status, transfer, sender: { key, deadlines } }: Piece): KvxError {
  const ms = `within ${String(deadlines.transfer)} ms`
  const text =
    status === 'asking'
      ? `${peerName(transfer.peer)} did not say ${ms} whether a part of room ${key} may be staged.`
      : status === 'staged'
        ? `${peerName(transfer.peer)} did not take a part of room ${key} out of its staging memory ${ms}.`
        : `A write of room ${key} did not end ${ms}.`
  return new KvxError('ERR_KVX_TRANSFER_TIMEOUT', text, { phase: 'transfer' })
}
