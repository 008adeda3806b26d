/** What hosts are told: invariants 1, 2, 3 and 9. */
import type { KvxError } from '@kvx/contract'
import type { DecodeEffect, PrefillEffect } from '@kvx/core/protocol'
import { hasEnded, spoil, type Leg, type ReceiveLeg, type SendLeg } from '../books/legs.ts'
import type { Staging } from '../engine/staging.ts'
import type { Writes } from '../engine/writes.ts'
import { violate } from '../machine/violation.ts'
import { prefixOf } from '../shape/memory.ts'
import type { Shape } from '../shape/shape.ts'
import { checkBytes } from './bytes.ts'

export type SenderNews = Extract<PrefillEffect, { do: `sender.${string}` }>
export type ReceiverNews = Extract<DecodeEffect, { do: `receiver.${string}` }>

export class News {
  readonly #shape: Shape
  readonly #writes: Writes
  readonly #staging: Staging

  constructor(shape: Shape, { writes, staging }: { writes: Writes; staging: Staging }) {
    this.#shape = shape
    this.#writes = writes
    this.#staging = staging
  }

  onSender(leg: SendLeg, news: SenderNews): void {
    const { phase, host } = leg
    const ended = hasEnded(leg)
    const unless = (right: boolean) => {
      if (!right)
        violate(
          'news out of order',
          `${host.name}: ${news.do} of room ${leg.job.room} while it is ${phase}`,
        )
    }
    switch (news.do) {
      case 'sender.reserved':
        unless(phase === 'waiting')
        return
      case 'sender.posted':
        unless(!ended && leg.unanswered.has(news.write))
        return
      case 'sender.rejected':
        if (leg.attempt !== 'made')
          violate('proper call rejected', `${host.name}: ${news.error.message}`)
        return
      case 'sender.finished':
        unless(phase === 'finishing' && leg.unanswered.size === 0)
        return
      case 'sender.failed':
        unless(!ended)
        return
      case 'sender.settled':
        unless(ended && !leg.settled)
        if (this.#writes.mayRead(leg) || this.#staging.isRead(leg))
          violate(
            'source pages given back early',
            `room ${leg.job.room} of ${host.name}: a write may still read them`,
          )
    }
  }

  onReceiver(leg: ReceiveLeg, news: ReceiverNews): void {
    const { phase, host, job } = leg
    const ended = hasEnded(leg)
    const unless = (right: boolean) => {
      if (!right)
        violate(
          'news out of order',
          `${host.name}: ${news.do} of room ${job.room} while it is ${phase}`,
        )
    }
    switch (news.do) {
      case 'receiver.reached':
        unless(phase === 'new')
        return
      case 'receiver.accepted':
        unless(phase === 'reserving')
        if (news.prefixTokens !== prefixOf(host.slot.memory, job))
          violate(
            'wrong prefix told',
            `${host.name}: of room ${job.room} ${news.prefixTokens} tokens count as there`,
          )
        return
      case 'receiver.wanted':
        // `ready` may overtake an `accept` that was lost with its connection.
        unless((phase === 'reserving' || phase === 'accepted') && !leg.wanted && job.late)
        return
      case 'receiver.transferring':
        // One prefill rank may have written before another has answered.
        unless(phase === 'reserving' || phase === 'accepted')
        return
      case 'receiver.rejected':
        violate('proper call rejected', `${host.name}: ${news.error.message}`)
        return
      case 'receiver.done':
        unless(phase === 'accepted')
        if (leg.reserves.some(({ falsified }) => falsified))
          violate(
            'success of a wrong transfer',
            `room ${job.room} of ${host.name}: manifest or bytes were wrong`,
          )
        if (news.aux.firstToken !== job.prompt)
          violate('success with another token', `room ${job.room} of ${host.name}`)
        if (this.#writes.mayLand(leg))
          violate('success while a write may land', `room ${job.room} of ${host.name}`)
        checkBytes(leg, 'success without its bytes')
        return
      case 'receiver.failed':
        unless(!ended)
        return
      case 'receiver.settled':
        unless(ended && !leg.settled)
        if (this.#writes.mayLand(leg))
          violate(
            'pages given back early',
            `room ${job.room} of ${host.name}: a write may still land in them`,
          )
        if (this.#staging.isWritten(leg))
          violate(
            'pages given back early',
            `room ${job.room} of ${host.name}: it is still scattered into them`,
          )
        if (phase === 'failed' && leg.reserves.some(({ over }) => !over))
          violate(
            'pages given back without proof',
            `room ${job.room} of ${host.name}: neither drained nor fenced`,
          )
    }
  }

  /** Invariant 9. */
  onFailed(leg: Leg, error: KvxError): void {
    const { job, host } = leg
    // Who still runs when an engine is replaced counts as hit; `onRecycle` judges whether it had to be.
    const isStraggler = error.message.includes('engine had to be replaced')
    if (
      job.clean &&
      !isStraggler &&
      !(error.code === 'ERR_KVX_OVER_LIMIT' && this.#shape.limits.requests < 4)
    ) {
      violate(
        'unhit request failed',
        `room ${job.room} at ${host.name}, which no fault has hit: ${error.code}: ${error.message}`,
      )
    }
    spoil(job)
  }
}
