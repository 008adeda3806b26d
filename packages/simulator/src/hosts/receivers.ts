/** The hosts of decode: they lease pages, reserve, and generate from what arrives. */
import { receiveObjection, type DpRank } from '@kvx/core/protocol'
import { listsOf, type Job, type ReceiveLeg } from '../books/legs.ts'
import type { ReceiverNews } from '../checks/news.ts'
import { violate } from '../machine/violation.ts'
import type { DecodeRank } from '../ranks/decode.ts'
import { heldTokens, prefixOf } from '../shape/memory.ts'
import { neededFrom, pageCount } from '../shape/tokens.ts'
import { abortSiblings, giveUp, onRefused } from './ends.ts'
import { clear, giveAllBack, takePages } from './pages.ts'
import type { Site } from './site.ts'

export class Receivers {
  readonly #site: Site

  constructor(site: Site) {
    this.#site = site
  }

  /** @param from the bootstrap service of the prefill instance */
  start(rank: DecodeRank, job: Job, { from, dpRank }: { from: string; dpRank: DpRank }): void {
    const { context } = this.#site
    const { clock, random, shape } = context
    if (rank.draining || receiveObjection(rank.state, job.key)) {
      onRefused(context, job)
      return
    }
    const leg: ReceiveLeg = {
      side: 'decode',
      id: context.serial(),
      job,
      host: rank,
      phase: 'new',
      settled: false,
      leases: new Map(),
      pages: new Map(),
      cause: undefined,
      dueAt: Infinity,
      abort: (reason) => {
        giveUp(context, leg, reason, () => {
          rank.step({ type: 'host.abort', request: leg.id, reason })
        })
      },
      isPublished: dpRank === 'published',
      provided: false,
      wanted: false,
      reserves: [],
      posted: new Map(),
      free: undefined,
    }
    job.receivers.push(leg)
    rank.legs.set(leg.id, leg)
    context.log(
      () =>
        `${rank.name} host: receives room ${job.room} from ${from}, prefix ${job.prefix} of ${job.tokens} tokens${job.late ? ', late' : ''} (job ${job.id})`,
    )
    rank.step({
      type: 'host.receive',
      request: leg.id,
      key: job.key,
      room: job.room,
      index: 0,
      from,
      tokens: job.tokens,
      digest: job.digest,
      dpRank,
      deadlines: shape.deadlines,
    })
    if (random.chance(0.7)) this.#reserve(rank, leg, clock.now)
    else {
      const since = clock.now
      rank.later(random.between(1, 80), () => {
        this.#reserve(rank, leg, since)
      })
    }
  }

  /** @param since moment from which it waits for pages */
  #reserve(rank: DecodeRank, leg: ReceiveLeg, since: number): void {
    const { context, checks } = this.#site
    const { clock, random, shape } = context
    const { job } = leg
    if (leg.phase !== 'new') return
    if (!job.late && !this.#allocate(rank, leg)) {
      // Decode has no pages for it: after a while its host gives it up.
      if (clock.now - since > 2 * shape.deadlines.pairing) leg.abort('no pages')
      else
        rank.later(random.between(40, 150), () => {
          this.#reserve(rank, leg, since)
        })
      return
    }
    leg.phase = 'reserving'
    const { hello, reserve, queue } = shape.deadlines
    const published = leg.isPublished ? queue : 0
    checks.deadlines.expectEnd(leg, 'reserving', published + hello + reserve)
    rank.step({
      type: 'host.reserve',
      request: leg.id,
      prefixTokens: job.prefix,
      pages: job.late ? undefined : listsOf(leg),
    })
    if (job.late && random.chance(0.1)) this.#provideSoon(rank, leg, random.between(1, 100))
  }

  #provideSoon(rank: DecodeRank, leg: ReceiveLeg, ms: number): void {
    rank.later(ms, () => {
      if (leg.provided || (leg.phase !== 'reserving' && leg.phase !== 'accepted')) return
      if (!this.#allocate(rank, leg)) {
        this.#provideSoon(rank, leg, this.#site.context.random.between(40, 150))
        return
      }
      leg.provided = true
      rank.step({ type: 'host.provide', request: leg.id, pages: listsOf(leg) })
    })
  }

  #allocate(rank: DecodeRank, leg: ReceiveLeg): boolean {
    const { memory } = rank.slot
    const { tokens, slots } = leg.job
    const prefix = prefixOf(memory, leg.job)
    const isTaken = takePages(rank, leg, (held) => {
      const { pageTokens, component } = held
      if (pageTokens === undefined) return [0, slots]
      const list = heldTokens(memory, held, tokens)
      const first = neededFrom(component, list, pageTokens, { tokens, prefix })
      return [first, pageCount(list, pageTokens)]
    })
    if (!isTaken) return false
    for (const name of leg.pages.keys()) clear(rank, leg, name, 'leased')
    return true
  }

  onNews(rank: DecodeRank, news: ReceiverNews): void {
    const { context, books, checks } = this.#site
    const { random, shape } = context
    const leg = rank.legs.get(news.request)
    if (!leg)
      violate(
        'news after the end',
        `${rank.name}: ${news.do} for a request that has settled or never was`,
      )
    context.log(
      () =>
        `${rank.name} host: ${news.do} of room ${leg.job.room}${'error' in news ? ` ${news.error.code}: ${news.error.message}` : ''}`,
    )
    checks.news.onReceiver(leg, news)
    switch (news.do) {
      case 'receiver.reached':
        return
      case 'receiver.accepted': {
        leg.phase = 'accepted'
        const { pairing, progress } = shape.deadlines
        checks.deadlines.expectEnd(leg, 'accepted', pairing + progress)
        return
      }
      case 'receiver.wanted':
        leg.wanted = true
        this.#provideSoon(rank, leg, random.between(0, 60))
        return
      case 'receiver.transferring':
      case 'receiver.rejected':
        return
      case 'receiver.done':
        leg.phase = 'success'
        leg.dueAt = Infinity
        books.totals.succeeded++
        return
      case 'receiver.failed':
        leg.phase = 'failed'
        leg.dueAt = Infinity
        books.totals.failed++
        leg.cause = news.error
        checks.news.onFailed(leg, news.error)
        quarantine(rank, leg)
        abortSiblings(context, leg.job)
        return
      case 'receiver.settled':
        leg.settled = true
        rank.legs.delete(leg.id)
        leg.free?.()
        // Pages of a success are read for a while by whoever generates.
        if (leg.phase === 'success')
          rank.later(random.chance(0.5) ? 0 : random.between(1, 120), () => {
            giveAllBack(rank, leg)
          })
    }
  }
}

/** Bytes may still land: the pages are free when the request has settled. */
function quarantine(rank: DecodeRank, leg: ReceiveLeg): void {
  const free: (() => void)[] = []
  // As `until.then(…)` of a promise, but at once: the world does not wait for microtasks.
  const until = { then: (then: () => void) => free.push(then) } as unknown as Promise<void>
  for (const lease of leg.leases.values()) lease.quarantine(until)
  leg.free = () => {
    for (const name of leg.leases.keys()) rank.books.get(name)!.disown(leg.pages.get(name)!.pages)
    leg.leases.clear()
    for (const end of free) end()
  }
}
