/** The hosts of prefill: they compute a prompt and hand its pages to the manager, chunk by chunk. */
import { sendObjection } from '@kvx/core/protocol'
import { spoil, type Job, type SendLeg } from '../books/legs.ts'
import type { SenderNews } from '../checks/news.ts'
import { violate } from '../machine/violation.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import { abortSiblings, giveUp, onRefused } from './ends.ts'
import { fill, giveAllBack, stateOf, takePages } from './pages.ts'
import type { Site } from './site.ts'

export class Senders {
  readonly #site: Site

  constructor(site: Site) {
    this.#site = site
  }

  start(rank: PrefillRank, job: Job): void {
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
      leases: { kv: undefined, mamba: undefined },
      pages: { kv: new Int32Array(), mamba: new Int32Array() },
      cause: undefined,
      dueAt: Infinity,
      abort: (reason) => {
        giveUp(context, leg, reason, () => {
          rank.step({ type: 'host.abort', sender: leg.id, reason })
        })
      },
      admitted: false,
      todo: [],
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
        leg.dueAt = Infinity
        this.#work(rank, leg, random.between(1, 40), clock.now)
        return
      case 'sender.posted':
        leg.unanswered.delete(news.write)
        return
      case 'sender.rejected':
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
    const { context, checks } = this.#site
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
          this.#work(rank, leg, turn, clock.now)
          return
        }
      }
      queued(false)
      if (leg.job.late && random.chance(0.2)) rank.step({ type: 'host.ready', sender: leg.id })
      const next = leg.todo.shift()
      if (next) {
        const write = leg.nextWrite++
        leg.unanswered.add(write)
        const { start, layers } = next
        const pages = leg.pages.kv.slice(start, start + next.pages)
        rank.step({ type: 'host.write', sender: leg.id, write, start, pages, layers })
        this.#work(rank, leg, random.chance(0.5) ? 0 : random.between(1, 60), clock.now)
        return
      }
      leg.phase = 'finishing'
      const { progress, transfer, linger, drain, recycle, peerSilent } = shape.deadlines
      const longest = progress + 2 * transfer + linger + drain + recycle + peerSilent
      checks.deadlines.expectEnd(leg, 'finishing', longest)
      const aux = { firstToken: leg.job.prompt }
      rank.step({ type: 'host.finish', sender: leg.id, state: stateOf(leg), aux })
    })
  }

  /** Of some requests the turn at the model comes later than decode would wait for a silent prefill. */
  #turnAfter({ job }: SendLeg): number {
    return job.id % 16 === 0 ? this.#site.context.shape.deadlines.progress + 800 : 0
  }

  /** The leg gets pages and a compute slot; its bytes are made from the prompt alone. */
  #admit(rank: PrefillRank, leg: SendLeg): boolean {
    const { random, shape } = this.#site.context
    const { pageTokens, layers } = shape.model
    const pages = Math.ceil(leg.job.tokens / pageTokens)
    if (!takePages(rank, leg, pages)) return false
    leg.admitted = true
    fill(rank, leg)
    const cut = random.between(1, layers - 1)
    const ranges: (readonly [number, number])[] = random.chance(0.35)
      ? [
          [0, cut],
          [cut, layers],
        ]
      : [[0, layers]]
    for (let start = 0; start < pages;) {
      const count = Math.min(random.between(1, 3), pages - start)
      for (const range of ranges) leg.todo.push({ start, pages: count, layers: range })
      start += count
    }
    if (random.chance(0.3)) random.shuffle(leg.todo)
    return true
  }
}
