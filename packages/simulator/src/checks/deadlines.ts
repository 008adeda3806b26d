/** Invariant 5: every wait of a caller ends in time. */
import type { MessageOf } from '@kvx/core/protocol'
import type { Leg, ReceiveLeg } from '../books/legs.ts'
import type { Context } from '../machine/context.ts'
import { violate } from '../machine/violation.ts'
import type { PrefillRank } from '../ranks/prefill.ts'

/** A caller's wait may end so much later than its deadline: the ticks of a slow process, and its host. */
const slack = 1_200

export class Deadlines {
  readonly #context: Context

  constructor(context: Context) {
    this.#context = context
  }

  /** The leg must have left `phase` when its process has lived `ms` longer. */
  expectEnd(leg: Leg, phase: string, ms: number): void {
    leg.dueAt = leg.host.lived() + ms + slack
    this.#look(leg, phase, ms + slack)
  }

  #look(leg: Leg, phase: string, ms: number): void {
    this.#context.clock.after(ms, () => {
      const { host } = leg
      if (leg.phase !== phase || !host.alive) return
      const left = leg.dueAt - host.lived()
      if (left > 0 || host.frozen) {
        this.#look(leg, phase, Math.max(left, 100))
        return
      }
      violate('deadline missed', `room ${leg.job.room} of ${host.name} is ${phase} for too long`)
    })
  }

  /** Decode lives and the request waits for its turn there: its leg at prefill has the time of the pairing again. */
  onQueued(prefill: PrefillRank, { rooms }: MessageOf<'queued'>): void {
    for (const leg of prefill.legs.values()) {
      if (leg.phase !== 'waiting' || !rooms.some(([room]) => room === leg.job.room)) continue
      const { pairing } = this.#context.shape.deadlines
      leg.dueAt = Math.max(leg.dueAt, prefill.lived() + pairing + slack)
    }
  }

  /** News of a request gives it the time of the progress deadline again. */
  extend(leg: ReceiveLeg): void {
    if (leg.phase !== 'accepted') return
    const { progress } = this.#context.shape.deadlines
    leg.dueAt = Math.max(leg.dueAt, leg.host.lived() + progress + slack)
  }
}
