/** The end of this process, or another one in its place: no new requests. */
import { KvxError } from '@kvx/contract'
import { noNewRequests, type Draining } from '../keys.ts'
import { rankName } from '../../share/index.ts'
import { failTransfer } from './sender.ts'
import type { PrefillStep } from './state.ts'

/** Reserves without their prefill leg will not get one any more. */
export function onDrain(step: PrefillStep, { replaced }: Draining): void {
  step.state.draining = { replaced }
  for (const room of step.state.rooms.values()) {
    if (room.sender) continue
    for (const transfer of room.transfers) {
      if (transfer.phase === 'parked') failTransfer(step, transfer, drainingError(step))
    }
  }
}

export function drainingError({ state: { self, draining } }: PrefillStep): KvxError {
  const who = `prefill ${self.instance} (${rankName(self.rank)})`
  return new KvxError('ERR_KVX_DRAINING', noNewRequests(who, draining), {
    phase: 'reserve',
    peer: self.instance,
    rank: rankName(self.rank),
    cause: draining?.replaced,
  })
}
