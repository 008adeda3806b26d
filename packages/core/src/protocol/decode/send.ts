import { KvxError, type ErrorCode, type Phase } from '@kvx/contract'
import { failureFields } from '../keys.ts'
import { rankName } from '../../share/index.ts'
import { protocolVersion, type Message } from '../messages.ts'
import type { DecodeStep, Leg, Link } from './state.ts'

type Body<M> = M extends Message ? Omit<M, 'v' | 'from' | 'to'> : never

export function sendTo(step: DecodeStep, link: Link, body: Body<Message>): void {
  if (!link.up) return
  const envelope = {
    v: protocolVersion,
    from: step.state.self.incarnation,
    to: link.incarnation,
  } as const
  step.out.push({
    do: 'send',
    endpoint: link.endpoint,
    message: { ...envelope, ...body } as Message,
  })
}

export function ask(step: DecodeStep, link: Link, epoch: number, k: 'ack' | 'query'): void {
  sendTo(step, link, { k, gen: step.state.engine.generation, ep: epoch })
}

export function sendAbort(step: DecodeStep, leg: Leg, error: KvxError): void {
  sendTo(step, leg.link, {
    k: 'abort',
    gen: step.state.engine.generation,
    ep: leg.epoch,
    ...failureFields(error),
  })
}

/** The epoch that a prefill rank spoke of is not one of its own. */
export function rejectEpoch(step: DecodeStep, link: Link, epoch: number): void {
  sendTo(step, link, {
    k: 'abort',
    gen: step.state.engine.generation,
    ep: epoch,
    code: 'ERR_KVX_EPOCH_MISMATCH',
    text: `Epoch ${String(epoch)} was not given to this prefill rank.`,
  })
}

/** An error about a prefill rank, which names it. */
export function about(link: Link, code: ErrorCode, phase: Phase, text: string): KvxError {
  return new KvxError(code, `prefill ${link.instance} (${rankName(link.rank)}) ${text}`, {
    phase,
    peer: link.instance,
    rank: rankName(link.rank),
  })
}
