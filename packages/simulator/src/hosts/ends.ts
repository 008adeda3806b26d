/**
 * How requests end before their time. A rank's failure reaches its siblings through their host, which takes
 * the least state of all of them.
 */
import { hasEnded, spoil, type Job, type Leg } from '../books/legs.ts'
import type { Context } from '../machine/context.ts'
import { fault } from '../shape/faults.ts'

/** A host gives a leg up; `abort` tells its manager. Nothing happens when the leg has ended. */
export function giveUp(context: Context, leg: Leg, reason: string, abort: () => void): void {
  if (leg.settled || hasEnded(leg)) return
  const { host, job } = leg
  spoil(job)
  job.mask |= fault.abort
  context.log(() => `${host.name} host: aborts room ${job.room}: ${reason}`)
  abort()
}

/** One rank has failed: so has the request, and its host ends it on the others. */
export function abortSiblings({ random }: Context, job: Job): void {
  for (const leg of [...job.senders, ...job.receivers]) {
    if (hasEnded(leg)) continue
    const siblings = leg.side === 'prefill' ? job.senders : job.receivers
    if (siblings.length < 2 && !job.oneSided) continue
    leg.host.later(random.between(20, 150), () => {
      if (siblings.some(({ phase, host }) => phase === 'failed' || !host.alive))
        leg.abort('another rank failed')
    })
  }
}

/** The manager takes no more requests, or the room is in use. */
export function onRefused(context: Context, job: Job): void {
  spoil(job)
  job.refused = true
  abortSiblings(context, job)
}
