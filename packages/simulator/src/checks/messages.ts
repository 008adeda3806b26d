/** What is said is true, and nothing is forgotten: invariants 1, 2, 3 and 9 as messages show them. */
import type { DecodeEffect, Message, MessageOf } from '@kvx/core/protocol'
import type { Reserve } from '../books/legs.ts'
import { hasEnded } from '../books/legs.ts'
import type { Staging } from '../engine/staging.ts'
import type { Writes } from '../engine/writes.ts'
import { violate } from '../machine/violation.ts'
import type { Wire } from '../network/wire.ts'
import type { Cast } from '../ranks/cast.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { checkBytes } from './bytes.ts'
import type { Deadlines } from './deadlines.ts'

export class Messages {
  /** Messages whose manifest does not say what was moved. */
  readonly wrongManifests = new WeakSet<Message>()
  readonly #cast: Cast
  readonly #writes: Writes
  readonly #staging: Staging
  readonly #deadlines: Deadlines

  constructor(
    cast: Cast,
    { writes, staging }: { writes: Writes; staging: Staging },
    deadlines: Deadlines,
  ) {
    this.#cast = cast
    this.#writes = writes
    this.#staging = staging
    this.#deadlines = deadlines
  }

  onDecodeSays(decode: DecodeRank, message: Message): void {
    if (message.k === 'abort') {
      const { cause } = decode.epochs.get(message.ep)?.leg ?? {}
      if (cause && cause.code !== message.code)
        violate(
          'first cause lost',
          `${decode.name} aborts epoch ${message.ep} with ${message.code}, its host was told ${cause.code}`,
        )
      return
    }
    if (message.k === 'bay') this.#staging.onBay(decode, message)
    if (message.k === 'scattered') this.#staging.onScattered(decode, message)
    if (message.k !== 'reserve') return
    if (decode.epochs.has(message.ep))
      violate('epoch used twice', `${decode.name} uses ${message.ep} again`)
    for (const leg of decode.legs.values()) {
      if (leg.job.room !== message.room || leg.phase !== 'reserving') continue
      const reserve = {
        epoch: message.ep,
        leg,
        peer: message.to,
        over: false,
        paired: false,
        told: undefined,
        falsified: false,
      }
      decode.epochs.set(message.ep, reserve)
      leg.reserves.push(reserve)
      return
    }
    violate(
      'reserve of nobody',
      `${decode.name} reserves for room ${message.room}, which its host does not reserve`,
    )
  }

  onDecodeHears(decode: DecodeRank, message: Message): void {
    if (!('ep' in message) || message.ep === undefined) return
    const reserve = decode.epochs.get(message.ep)
    if (reserve?.peer !== message.from) return
    // A transport that repeats may bring the wrong one behind the right one, by which decode has judged.
    if (this.wrongManifests.has(message) && !reserve.over) reserve.falsified = true
    const outcome = message.k === 'status' ? message.outcome?.k : undefined
    const isComplete = message.k === 'complete' || outcome === 'complete'
    const isOver = message.k === 'status' && message.state === 'over'
    if (isComplete || isOver || message.k === 'drained' || message.k === 'refuse')
      reserve.over = true
    if (isComplete || message.k === 'progress' || message.k === 'accept' || message.k === 'status')
      this.#deadlines.extend(reserve.leg)
  }

  /** What prefill says must be true. */
  onPrefillSays(prefill: PrefillRank, message: Message): void {
    if (!('ep' in message) || message.ep === undefined) return
    const decode = this.#cast.decodeOf(message.to)
    const reserve = decode?.epochs.get(message.ep)
    if (!decode || reserve?.peer !== prefill.incarnation) return
    if (message.k === 'accept' && message.state === 'paired') reserve.paired = true
    const { leg } = reserve
    const failure = message.k === 'status' ? message.outcome : message
    if (failure?.k === 'failed') this.#checkCause(prefill, reserve, failure)
    const isOver = message.k === 'status' && message.state === 'over'
    if (isOver || message.k === 'drained' || message.k === 'refuse') {
      if (this.#writes.mayLand(leg, { from: prefill, epoch: message.ep }))
        violate(
          'drained while a write may land',
          `${prefill.name} says ${message.k} for epoch ${message.ep} of ${decode.name}`,
        )
    } else if (message.k === 'complete') {
      if (this.#writes.mayLand(leg, { from: prefill, epoch: message.ep }))
        violate(
          'complete while a write may land',
          `${prefill.name} completes epoch ${message.ep} of ${decode.name}`,
        )
      if (!decode.alive || hasEnded(leg) || reserve.falsified || message.gen !== decode.generation)
        return
      const others = this.#cast.prefills.filter(
        ({ instance }) => instance === prefill.slot.instance,
      )
      checkBytes(leg, 'complete too early', { by: prefill.slot, of: others })
    }
  }

  /** Invariant 3: the first cause is kept, on both sides and in every repetition. */
  #checkCause(prefill: PrefillRank, reserve: Reserve, failure: MessageOf<'failed'>): void {
    const text = `${failure.code}: ${failure.text}`
    reserve.told ??= text
    const sender = reserve.leg.job.senders.find(({ host }) => host === prefill)
    const known = reserve.paired ? sender?.cause?.code : undefined
    if (reserve.told !== text || (known !== undefined && known !== failure.code))
      violate(
        'first cause lost',
        `${prefill.name} says ${text} of epoch ${reserve.epoch}; before it was ${reserve.told}, its host was told ${known ?? 'nothing'}`,
      )
  }
}

/** Invariant 9: what may have got lost with a connection is asked for on the next. */
export function onWelcome(
  decode: DecodeRank,
  wire: Wire,
  peer: string,
  effects: readonly DecodeEffect[],
): void {
  if (wire.welcomed || wire.client.wire !== wire) return
  // What may land ends with the engine, and the next one greets anew: this welcome answered the old one's hello.
  if (decode.state.recycle?.phase === 'closing') return
  wire.welcomed = true
  const asked = new Set<number>()
  for (const effect of effects) {
    if (effect.do !== 'send') continue
    const { message } = effect
    if (message.k === 'query' || message.k === 'abort') asked.add(message.ep)
  }
  for (const leg of decode.legs.values()) {
    for (const { peer: to, over, epoch } of leg.reserves) {
      if (to === peer && !over && !asked.has(epoch))
        violate('not asked after a reconnect', `${decode.name} does not ask for epoch ${epoch}`)
    }
  }
}
