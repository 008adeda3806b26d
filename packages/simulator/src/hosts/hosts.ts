/** The hosts: what a model server does with the managers of its ranks, and the router that sends them requests. */
import { dpRankOf, roomKey, type DpRank } from '@kvx/core/protocol'
import { spoil, type Job } from '../books/legs.ts'
import type { Bootstraps } from '../network/bootstrap.ts'
import type { Cast } from '../ranks/cast.ts'
import { digestOf } from '../shape/content.ts'
import { Receivers } from './receivers.ts'
import { Senders } from './senders.ts'
import type { Site } from './site.ts'

export type Routing = 'by room' | 'given' | 'published' | 'disagreeing'

export interface JobOptions {
  readonly prefill: number
  readonly decode: number
  /** Data-parallel rank of decode that the router chose. */
  readonly dp: number
  /**
   * How the data-parallel rank of prefill is found. With `disagreeing` the router tells decode another one than the
   * prefill host chooses.
   */
  readonly routing: Routing
  /** The one that the router, or the prefill host, chose. */
  readonly prefillDp: number
  readonly room: bigint
  readonly tokens: number
  readonly prompt: number
  readonly prefix: number
  readonly late: boolean
  readonly slots: number
  readonly sides: 'both' | 'prefill' | 'decode'
  /** Milliseconds by which each leg begins later. */
  readonly sendAfter: number
  readonly receiveAfter: number
}

export class Hosts {
  readonly senders: Senders
  readonly receivers: Receivers
  readonly #site: Site
  readonly #cast: Cast
  readonly #bootstraps: Bootstraps

  constructor(site: Site, cast: Cast, bootstraps: Bootstraps) {
    this.#site = site
    this.#cast = cast
    this.#bootstraps = bootstraps
    this.senders = new Senders(site)
    this.receivers = new Receivers(site)
  }

  startJob(options: JobOptions): Job {
    const { room, tokens, prompt, prefix, late, slots, sides } = options
    const { context, books } = this.#site
    const { prefills, decodes } = this.#cast
    const job: Job = {
      id: context.serial(),
      room,
      key: roomKey(room, 0),
      prefill: options.prefill,
      decode: options.decode,
      prompt,
      tokens,
      digest: digestOf(prompt),
      prefix,
      late,
      slots,
      clean: false,
      senders: [],
      receivers: [],
      oneSided: sides !== 'both',
      mask: 0,
      refused: false,
    }
    const prefill = prefills.filter(({ instance }) => instance === options.prefill)
    const decode = decodes.filter(({ instance }) => instance === options.decode)
    // A room that another request has used gets in its way.
    const others = books.jobs.filter((other) => other.room === room)
    for (const other of others) spoil(other)
    const dpSize = prefill[0]?.rank.dpSize ?? 1
    const { routing } = options
    const chosen = routing === 'by room' ? dpRankOf(room, dpSize) : options.prefillDp % dpSize
    const isDisagreeing = routing === 'disagreeing' && dpSize > 1
    const isHit = [...prefill, ...decode].some(({ hitAt }) => hitAt >= 0)
    job.clean = sides === 'both' && others.length === 0 && !isHit && !isDisagreeing
    books.jobs.push(job)
    const soon = (ms: number) => ms + context.random.between(0, 10)
    if (sides !== 'decode') {
      for (const { process, rank } of prefill) {
        if (rank.dp !== chosen) continue
        process.later(soon(options.sendAfter), () => {
          this.senders.start(process, job, isDisagreeing || routing === 'published')
        })
      }
    }
    if (sides !== 'prefill') {
      const { from } = this.#bootstraps.of(options.prefill)
      const dpRank: DpRank = {
        'by room': undefined,
        given: chosen,
        published: 'published' as const,
        disagreeing: (chosen + 1) % dpSize,
      }[routing]
      for (const { process, rank } of decode) {
        if (rank.dp !== options.dp % rank.dpSize) continue
        process.later(soon(options.receiveAfter), () => {
          this.receivers.start(process, job, { from, dpRank })
        })
      }
    }
    return job
  }
}
