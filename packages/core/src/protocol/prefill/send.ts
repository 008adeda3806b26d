import type { KvxError } from '@kvx/contract'
import { failureFields } from '../keys.ts'
import { rankName } from '../../share/index.ts'
import { protocolVersion, type Message, type StagedPart } from '../messages.ts'
import type { Peer, PrefillStep, Transfer } from './state.ts'

type Body<M> = M extends Message ? Omit<M, 'v' | 'from' | 'to'> : never

export function sendTo(step: PrefillStep, peer: Peer, body: Body<Message>): void {
  sendOn(step, peer.connection, peer.incarnation, body)
}

export function sendOn(
  step: PrefillStep,
  connection: string,
  incarnation: string,
  body: Body<Message>,
): void {
  const envelope = {
    v: protocolVersion,
    from: step.state.self.incarnation,
    to: incarnation,
  } as const
  step.out.push({ do: 'send', connection, message: { ...envelope, ...body } as Message })
}

/** The message of a transfer, addressed to its decode rank. */
export function tell(
  step: PrefillStep,
  transfer: Transfer,
  body:
    | { k: 'ready' }
    | { k: 'drained' }
    | { k: 'accept'; state: 'parked' | 'paired'; consumed?: boolean }
    | { k: 'progress'; units: number }
    | { k: 'stage'; load: number; bytes: number; ms: number }
    | { k: 'staged'; load: number; parts: StagedPart[] },
): void {
  sendTo(step, transfer.peer, { gen: transfer.generation, ep: transfer.epoch, ...body })
}

export function refuse(
  step: PrefillStep,
  peer: { connection: string; incarnation: string },
  generation: string,
  epoch: number | undefined,
  error: KvxError,
): void {
  sendOn(step, peer.connection, peer.incarnation, {
    k: 'refuse',
    gen: generation,
    ...(epoch === undefined ? {} : { ep: epoch }),
    ...failureFields(error),
  })
}

/** How a person would name a peer. */
export function peerName(peer: Peer): string {
  return `decode ${peer.instance} (${rankName(peer.rank)})`
}
