/** The hosts of prefill: they compute a prompt and hand its pages to the manager, chunk by chunk. */
import { sendObjection } from '@kvx/core/protocol'
import { spoil, type Chunk, type Job, type SendLeg } from '../books/legs.ts'
import type { SenderNews } from '../checks/news.ts'
import { violate } from '../machine/violation.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { heldTokens } from '../shape/memory.ts'
import { pageCount } from '../shape/tokens.ts'
import { abortSiblings, giveUp, onRefused } from './ends.ts'
import { chunksOf } from './chunks.ts'
import { fill, giveAllBack, takePages } from './pages.ts'
import type { Site } from './site.ts'

export class Senders {
  readonly #site: Site

  constructor(site: Site) {
    this.#site = site
  }

  start(rank: PrefillRank, job: Job, isPublished: boolean): void {
    const { context, checks } = this.#site
    const { random, shape } = context
    if (rank.draining || sendObjection(rank.state, job.key)) {
      onRefused(context, job)
      return
    }
    const leg: SendLeg = {
      side: 'prefill',
      id: context.serial(),
      job,
      host: rank,
      phase: 'waiting',
      settled: false,
      leases: new Map(),
      pages: new Map(),
      cause: undefined,
      dueAt: Infinity,
      abort: (reason) => {
        giveUp(context, leg, reason, () => {
          rank.step({ type: 'host.abort', sender: leg.id, reason })
        })
      },
      admitted: false,
      todo: [],
      lastState: {},
      attempt: 'none',
      firstTokens: {},
      nextWrite: 1,
      unanswered: new Set(),
    }
    job.senders.push(leg)
    rank.legs.set(leg.id, leg)
    context.log(
      () => `${rank.name} host: sends room ${job.room}, ${job.tokens} tokens (job ${job.id})`,
    )
    checks.deadlines.expectEnd(leg, 'waiting', shape.deadlines.pairing)
    rank.step({
      type: 'host.send',
      published: isPublished ? { room: job.room, index: 0 } : undefined,
      sender: leg.id,
      key: job.key,
      tokens: job.tokens,
      digest: job.digest,
      deadlines: shape.deadlines,
    })
    if (job.late && random.chance(0.2))
      rank.later(random.between(0, 40), () => {
        if (!leg.settled) rank.step({ type: 'host.ready', sender: leg.id })
      })
  }

  onNews(rank: PrefillRank, news: SenderNews): void {
    const { context, checks } = this.#site
    const { clock, random } = context
    const leg = rank.legs.get(news.sender)
    if (!leg)
      violate(
        'news after the end',
        `${rank.name}: ${news.do} for a sender that has settled or never was`,
      )
    context.log(
      () =>
        `${rank.name} host: ${news.do} of room ${leg.job.room}${'error' in news ? ` ${news.error.code}: ${news.error.message}` : ''}`,
    )
    checks.news.onSender(leg, news)
    switch (news.do) {
      case 'sender.reserved':
        leg.phase = 'reserved'
        leg.firstTokens = news.firstTokens
        leg.dueAt = Infinity
        this.#work(rank, leg, random.between(1, 40), clock.now)
        return
      case 'sender.posted':
        leg.unanswered.delete(news.write)
        return
      case 'sender.rejected':
        leg.attempt = 'rejected'
        return
      case 'sender.finished':
        leg.phase = 'success'
        leg.dueAt = Infinity
        return
      case 'sender.failed':
        leg.phase = 'failed'
        leg.dueAt = Infinity
        leg.unanswered.clear()
        leg.cause = news.error
        checks.news.onFailed(leg, news.error)
        abortSiblings(context, leg.job)
        return
      case 'sender.settled':
        leg.settled = true
        rank.legs.delete(leg.id)
        giveAllBack(rank, leg)
    }
  }

  /** The host's next call for this leg, after a while. `since`: moment from which it waits for pages. */
  #work(rank: PrefillRank, leg: SendLeg, ms: number, since: number): void {
    const { context } = this.#site
    const { clock, random, shape } = context
    const queued = (isQueued: boolean) => {
      rank.step({ type: 'host.queued', sender: leg.id, queued: isQueued })
    }
    rank.later(ms, () => {
      if (leg.phase !== 'reserved') return
      if (!leg.admitted) {
        if (!this.#admit(rank, leg)) {
          queued(true)
          // Others may hold the pages for longer than decode has to wait.
          if (clock.now - since > 2 * shape.deadlines.pairing) spoil(leg.job)
          this.#work(rank, leg, random.between(30, 120), since)
          return
        }
        const turn = this.#turnAfter(leg)
        if (turn > 0) {
          queued(true)
          // Decode, which may have come first, waits for no turn longer than for all queues together.
          const { pairing, queue } = shape.deadlines
          if (pairing + clock.now - since + turn > queue) spoil(leg.job)
          this.#work(rank, leg, turn, clock.now)
          return
        }
      }
      queued(false)
      if (leg.job.late && random.chance(0.2)) rank.step({ type: 'host.ready', sender: leg.id })
      if (leg.todo.length > 0 && random.chance(0.04) && this.#finishEarly(rank, leg)) return
      const next = leg.todo.shift()
      if (next) {
        const write = leg.nextWrite++
        leg.unanswered.add(write)
        context.log(() => `${rank.name} host: writes ${describe(next)}, of room ${leg.job.room}`)
        rank.step({ type: 'host.write', sender: leg.id, write, ...next })
        this.#work(rank, leg, random.chance(0.5) ? 0 : random.between(1, 60), clock.now)
        return
      }
      this.#finish(rank, leg, leg.lastState)
    })
  }

  #finish(rank: PrefillRank, leg: SendLeg, state: Record<string, Int32Array>): void {
    const { context, checks } = this.#site
    leg.phase = 'finishing'
    const { progress, transfer, linger, drain, recycle, peerSilent } = context.shape.deadlines
    const longest = progress + 5 * transfer + linger + drain + recycle + peerSilent
    checks.deadlines.expectEnd(leg, 'finishing', longest)
    const aux = { firstToken: leg.job.prompt }
    rank.step({ type: 'host.finish', sender: leg.id, state, aux })
  }

  /** A wrong call, unless nobody needs what is left to write. The answer: it was taken. */
  #finishEarly(rank: PrefillRank, leg: SendLeg): boolean {
    // A request of which decode has not named its slots yet may have none: that it has, is found out later.
    if (leg.job.late && leg.job.slots > 0) return false
    leg.attempt = 'made'
    this.#finish(rank, leg, {})
    const isRejected = (leg.attempt as SendLeg['attempt']) === 'rejected'
    leg.attempt = 'none'
    if (!isRejected) return true
    leg.phase = 'reserved'
    leg.dueAt = Infinity
    return false
  }

  /** Of some requests the turn at the model comes later than decode would wait for a silent prefill. */
  #turnAfter({ job }: SendLeg): number {
    return job.id % 16 === 0 ? this.#site.context.shape.deadlines.progress + 800 : 0
  }

  /** The leg gets pages and a compute slot; its bytes are made from the prompt alone. */
  #admit(rank: PrefillRank, leg: SendLeg): boolean {
    const { random } = this.#site.context
    const { memory } = rank.slot
    const { tokens, slots } = leg.job
    // What nobody needs may never have been computed.
    const isShort = random.chance(0.5)
    const isTaken = takePages(rank, leg, (held) => {
      const { pageTokens, component } = held
      if (pageTokens === undefined) return [0, slots]
      const list = heldTokens(memory, held, tokens)
      const needed = list.filter((token) => token < (leg.firstTokens[component.name] ?? 0)).length
      return [isShort ? Math.floor(needed / pageTokens) : 0, pageCount(list, pageTokens)]
    })
    if (!isTaken) return false
    leg.admitted = true
    fill(rank, leg)
    Object.assign(leg, chunksOf(random, leg))
    return true
  }
}

function describe({ tokens, layers: [first, end], state }: Chunk): string {
  const what = [
    ...(tokens ? [`tokens ${tokens[0]} to ${tokens[1]}`] : []),
    ...(Object.keys(state).length > 0 ? ['the state'] : []),
  ]
  return `${what.join(' and ')} of layers ${first} to ${end}`
}
