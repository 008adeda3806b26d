/**
 * The invariants, checked by books that the world keeps itself: who owns a page, which writes may still
 * land, what was said to whom, what a caller waits for. No check reads the state of a reducer, except the
 * last one, that no table holds anything (end.ts).
 */
import type { KvxError } from '@kvx/contract'
import type { DecodeEffect, Message, MessageOf, PrefillEffect } from '@kvx/core/protocol'
import { byteOf, components, type RankMemory } from './content.ts'
import type { DecodeRank } from './decode.ts'
import type { ReceiveLeg, Reserve, SendLeg } from './legs.ts'
import type { Wire } from './network.ts'
import type { PrefillRank } from './prefill.ts'
import type { World } from './world.ts'

/** A caller's wait may end so much later than its deadline: the ticks of a slow process, and its host. */
const slack = 1_200

export class Violation extends Error {
  /** Which check: what a shrunk schedule must still fail. */
  readonly check: string

  constructor(check: string, text: string) {
    super(`${check}: ${text}`)
    this.check = check
  }
}

export class Checks {
  readonly world: World
  /** Generation of the last hello, by prefill process and decode incarnation. */
  readonly #greeted = new Map<string, string>()
  /** Highest epoch that a prefill process has heard of, by decode incarnation. */
  readonly #heardOf = new Map<string, number>()

  /** Messages whose manifest does not say what was moved. */
  readonly wrongManifests = new WeakSet<Message>()

  constructor(world: World) {
    this.world = world
  }

  // Invariant 5: every wait of a caller ends

  /** The leg must have left `phase` when its process has lived `ms` longer. */
  expectEnd(leg: SendLeg | ReceiveLeg, phase: string, ms: number): void {
    leg.dueAt = leg.host.lived() + ms + slack
    this.#look(leg, phase, ms + slack)
  }

  #look(leg: SendLeg | ReceiveLeg, phase: string, ms: number): void {
    const { world } = this
    world.clock.after(ms, () => {
      const { host } = leg
      if (leg.phase !== phase || !host.alive) return
      const left = leg.dueAt - host.lived()
      if (left > 0 || host.frozen) {
        this.#look(leg, phase, Math.max(left, 100))
        return
      }
      world.violate(
        'deadline missed',
        `room ${leg.job.room} of ${host.name} is ${phase} for too long`,
      )
    })
  }

  /** Decode lives and the request waits for its turn there: its leg at prefill has the time of the pairing again. */
  onQueued(prefill: PrefillRank, { rooms }: MessageOf<'queued'>): void {
    for (const leg of prefill.legs.values()) {
      if (leg.phase !== 'waiting' || !rooms.some(([room]) => room === leg.job.room)) continue
      const { pairing } = this.world.shape.deadlines
      leg.dueAt = Math.max(leg.dueAt, prefill.lived() + pairing + slack)
    }
  }

  /** News of a request gives it the time of the progress deadline again. */
  #extend(leg: ReceiveLeg): void {
    if (leg.phase !== 'accepted') return
    leg.dueAt = Math.max(leg.dueAt, leg.host.lived() + this.world.shape.deadlines.progress + slack)
  }

  // Invariant 6: messages of another incarnation, generation or finished epoch change nothing

  isForeignAtPrefill(prefill: PrefillRank, message: Message): boolean {
    const key = `${prefill.incarnation}/${message.from}`
    if (message.k === 'hello') {
      if (message.to === prefill.incarnation) this.#greeted.set(key, message.gen)
      this.#heardOf.set(key, Math.max(this.#heardOf.get(key) ?? 0, message.epoch))
      return message.to !== prefill.incarnation
    }
    if (message.to !== prefill.incarnation) return true
    if (!('ep' in message) || message.ep === undefined) return false
    if (message.gen !== this.#greeted.get(key)) return true
    const heardOf = this.#heardOf.get(key) ?? 0
    this.#heardOf.set(key, Math.max(heardOf, message.ep))
    return message.k === 'reserve' && message.ep <= heardOf
  }

  isForeignAtDecode(decode: DecodeRank, wire: Wire, message: Message): boolean {
    if (message.to !== decode.incarnation || message.from !== wire.prefill.incarnation) return true
    return 'gen' in message && message.gen !== decode.current
  }

  changesNothing(
    name: string,
    message: Message,
    effects: readonly (PrefillEffect | DecodeEffect)[],
  ): void {
    const answers = ['refuse', 'drained', 'status', 'ready']
    for (const effect of effects) {
      if (effect.do === 'send' && answers.includes(effect.message.k)) continue
      this.world.violate(
        'foreign message acted upon',
        `${name} answered ${this.world.trace.describe(message)}, which is not for it, with ${effect.do}`,
      )
    }
  }

  /** Invariant 9: what may have got lost with a connection is asked for on the next. */
  onWelcome(decode: DecodeRank, wire: Wire, peer: string, effects: readonly DecodeEffect[]): void {
    if (wire.welcomed || wire.client.wire !== wire) return
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
          this.world.violate(
            'not asked after a reconnect',
            `${decode.name} does not ask for epoch ${epoch}`,
          )
      }
    }
  }

  // What is said

  onDecodeSays(decode: DecodeRank, message: Message): void {
    if (message.k === 'abort') {
      const { cause } = decode.epochs.get(message.ep)?.leg ?? {}
      if (cause && cause.code !== message.code)
        this.world.violate(
          'first cause lost',
          `${decode.name} aborts epoch ${message.ep} with ${message.code}, its host was told ${cause.code}`,
        )
      return
    }
    if (message.k !== 'reserve') return
    if (decode.epochs.has(message.ep))
      this.world.violate('epoch used twice', `${decode.name} uses ${message.ep} again`)
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
    this.world.violate(
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
      this.#extend(reserve.leg)
  }

  /** What prefill says must be true. */
  onPrefillSays(prefill: PrefillRank, message: Message): void {
    if (!('ep' in message) || message.ep === undefined) return
    const decode = this.world.decodeOf(message.to)
    const reserve = decode?.epochs.get(message.ep)
    if (!decode || reserve?.peer !== prefill.incarnation) return
    if (message.k === 'accept' && message.state === 'paired') reserve.paired = true
    const { leg } = reserve
    const failure = message.k === 'status' ? message.outcome : message
    if (failure?.k === 'failed') this.#checkCause(prefill, reserve, failure)
    const isOver = message.k === 'status' && message.state === 'over'
    if (isOver || message.k === 'drained' || message.k === 'refuse') {
      if (this.world.engines.mayLandOf(leg, prefill, message.ep))
        this.world.violate(
          'drained while a write may land',
          `${prefill.name} says ${message.k} for epoch ${message.ep} of ${decode.name}`,
        )
    } else if (message.k === 'complete') {
      if (this.world.engines.mayLandOf(leg, prefill, message.ep))
        this.world.violate(
          'complete while a write may land',
          `${prefill.name} completes epoch ${message.ep} of ${decode.name}`,
        )
      if (
        !decode.alive ||
        leg.phase === 'failed' ||
        leg.phase === 'success' ||
        reserve.falsified ||
        message.gen !== decode.generation
      )
        return
      this.#checkBytes(leg, 'complete too early', prefill.slot.memory)
    }
  }

  /** Invariant 3: the first cause is kept, on both sides and in every repetition. */
  #checkCause(prefill: PrefillRank, reserve: Reserve, failure: MessageOf<'failed'>): void {
    const text = `${failure.code}: ${failure.text}`
    reserve.told ??= text
    const sender = reserve.leg.job.senders.find(({ host }) => host === prefill)
    const known = reserve.paired ? sender?.cause?.code : undefined
    if (reserve.told !== text || (known !== undefined && known !== failure.code))
      this.world.violate(
        'first cause lost',
        `${prefill.name} says ${text} of epoch ${reserve.epoch}; before it was ${reserve.told}, its host was told ${known ?? 'nothing'}`,
      )
  }

  // Engines

  /** `inFlight`: of the same peer, with this post. A larger single write goes alone. */
  onPost(prefill: PrefillRank, inFlight: number, bytes: number): void {
    if (inFlight > bytes && inFlight > this.world.shape.limits.bytesInFlightPerPeer)
      this.world.violate(
        'credits exceeded',
        `${prefill.name} has ${inFlight} bytes in flight to one peer`,
      )
  }

  onFenced(decode: DecodeRank, writer: string): void {
    const peer = this.world.writers.get(writer)?.incarnation
    for (const reserve of decode.epochs.values()) if (reserve.peer === peer) reserve.over = true
  }

  onRecycled(decode: DecodeRank): void {
    for (const reserve of decode.epochs.values()) reserve.over = true
  }

  onFence(decode: DecodeRank): void {
    for (const leg of decode.legs.values()) if (leg.phase === 'failed') return
    this.world.violate(
      'needless fence',
      `${decode.name} fences although nothing of it is in quarantine`,
    )
  }

  onRecycle(process: PrefillRank | DecodeRank): void {
    for (const leg of process.legs.values()) leg.job.clean = false
    for (const leg of process.legs.values()) if (leg.phase === 'failed') return
    this.world.violate(
      'needless recycling',
      `${process.name} replaces its engine although nothing is stuck`,
    )
  }

  // What hosts are told: invariants 1, 2 and 3

  onSenderNews(leg: SendLeg, news: Extract<PrefillEffect, { do: `sender.${string}` }>): void {
    const { phase, host } = leg
    const ended = phase === 'success' || phase === 'failed'
    const unless = (right: boolean) => {
      if (!right)
        this.world.violate(
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
        this.world.violate('proper call rejected', `${host.name}: ${news.error.message}`)
        return
      case 'sender.finished':
        unless(phase === 'finishing' && leg.unanswered.size === 0)
        return
      case 'sender.failed':
        unless(!ended)
        return
      case 'sender.settled':
        unless(ended && !leg.settled)
        if (this.world.engines.mayRead(leg))
          this.world.violate(
            'source pages given back early',
            `room ${leg.job.room} of ${host.name}: a write may still read them`,
          )
    }
  }

  onReceiverNews(leg: ReceiveLeg, news: Extract<DecodeEffect, { do: `receiver.${string}` }>): void {
    const { phase, host, job } = leg
    const { world } = this
    const ended = phase === 'success' || phase === 'failed'
    const unless = (right: boolean) => {
      if (!right)
        world.violate(
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
        world.violate('proper call rejected', `${host.name}: ${news.error.message}`)
        return
      case 'receiver.done':
        unless(phase === 'accepted')
        if (leg.reserves.some(({ falsified }) => falsified))
          world.violate(
            'success of a wrong transfer',
            `room ${job.room} of ${host.name}: manifest or bytes were wrong`,
          )
        if (news.aux.firstToken !== job.prompt)
          world.violate('success with another token', `room ${job.room} of ${host.name}`)
        if (world.engines.mayLand(leg))
          world.violate('success while a write may land', `room ${job.room} of ${host.name}`)
        this.#checkBytes(leg, 'success without its bytes')
        return
      case 'receiver.failed':
        unless(!ended)
        return
      case 'receiver.settled':
        unless(ended && !leg.settled)
        if (world.engines.mayLand(leg))
          world.violate(
            'pages given back early',
            `room ${job.room} of ${host.name}: a write may still land in them`,
          )
        if (phase === 'failed' && leg.reserves.some(({ over }) => !over))
          world.violate(
            'pages given back without proof',
            `room ${job.room} of ${host.name}: neither drained nor fenced`,
          )
    }
  }

  /** Invariant 9. */
  onLegFailed(leg: SendLeg | ReceiveLeg, error: KvxError): void {
    const { job, host } = leg
    // Who still runs when an engine is replaced counts as hit; `onRecycle` judges whether it had to be.
    const isStraggler = error.message.includes('engine had to be replaced')
    if (
      job.clean &&
      !isStraggler &&
      !(error.code === 'ERR_KVX_OVER_LIMIT' && this.world.shape.limits.requests < 4)
    ) {
      this.world.violate(
        'unhit request failed',
        `room ${job.room} at ${host.name}, which no fault has hit: ${error.code}: ${error.message}`,
      )
    }
    job.clean = false
  }

  /** All bytes of the pages of a leg, or those that one prefill rank holds. */
  #checkBytes(leg: ReceiveLeg, check: string, of?: RankMemory): void {
    const { host, job } = leg
    const { memory, slot } = host
    const { bytesOf, placeAt } = slot.memory
    const prefix = Math.floor(job.prefix / this.world.shape.model.pageTokens)
    for (const name of components) {
      for (const [index, page] of leg.pages[name].entries()) {
        const number = name === 'kv' ? prefix + index : 0
        for (const at of bytesOf[name][page]!) {
          const place = placeAt[at]!
          if (of && !of.places.has(place)) continue
          if (memory[at] === byteOf(job.prompt, number, place)) continue
          this.world.violate(
            check,
            `room ${job.room} of ${host.name}: page ${index} of ${name} lacks a byte`,
          )
        }
      }
    }
  }
}
