/**
 * For engines whose memory keys cannot be revoked for one peer (fence kind `engine`): pages whose
 * writer does not say `drained` come back by closing the engine and opening a fresh generation.
 */
import { KvxError } from '@kvx/contract'
import { makeBays } from '../bays.ts'
import { undrainedLegs } from './leg.ts'
import { greet } from './link.ts'
import { advance, drainLeg, failRequest } from './request.ts'
import type { DecodeStep, EngineAddress, Leg, Request } from './state.ts'

export function watchQuarantine(step: DecodeStep): void {
  const { state, now } = step
  const { self } = state
  if (self.fence !== 'engine' || state.recycle?.phase === 'closing') return
  const stuck = quarantined(step)
  if (stuck.length === 0) {
    if (state.recycle) goOn(step)
    return
  }
  if (!state.recycle) {
    const share = stuckShare(step, stuck)
    if (share <= self.limits.quarantineShare && liveLegs(step).length > 0) return
    state.recycle = { phase: 'draining', deadline: now + self.deadlines.recycle }
  }
  const live = liveLegs(step)
  if (live.length > 0 && now < state.recycle.deadline) return
  for (const leg of live) {
    failRequest(
      step,
      leg.request,
      new KvxError(
        'ERR_KVX_TRANSFER_FAILED',
        'The transfer engine had to be replaced to get pages out of quarantine. Try again.',
        { phase: 'transfer', peer: self.instance },
      ),
    )
  }
  state.recycle.phase = 'closing'
  step.out.push({ do: 'recycle' })
}

/** Share of the pages of a component that are in quarantine, or of the bays; of all the largest. */
function stuckShare({ state: { self } }: DecodeStep, stuck: readonly Request[]): number {
  const loads = stuck.flatMap(({ legs }) => legs.flatMap((leg) => [...leg.loads.values()]))
  const bays = loads.filter(({ bay }) => bay).length / (self.staging?.bays ?? 1)
  const shares = Object.entries(self.place.components).map(([name, { pages }]) => {
    const counts = stuck.map(({ destination }) => destination?.pages?.[name]?.length ?? 0)
    return counts.reduce((sum, count) => sum + count, 0) / pages
  })
  return Math.max(bays, ...shares)
}

/** What was stuck has been drained after all: the engine stays. */
function goOn(step: DecodeStep): void {
  step.state.recycle = undefined
  for (const request of step.state.requests.values()) advance(step, request)
}

/** Failed requests whose writer has not said `drained` in time. */
function quarantined(step: DecodeStep): Request[] {
  const stuck = undrainedLegs(step.state).filter(
    (leg) => leg.phase === 'failed' && isLate(step, leg),
  )
  return [...new Set(stuck.map((leg) => leg.request))]
}

function isLate(step: DecodeStep, leg: Leg): boolean {
  return leg.link.status === 'lost' || step.now - leg.failedAt >= step.state.self.deadlines.drain
}

function liveLegs(step: DecodeStep): Leg[] {
  return undrainedLegs(step.state).filter((leg) => leg.phase !== 'failed')
}

/** The old generation is closed: nothing of it can land any more. */
export function onRecycled(step: DecodeStep, engine: EngineAddress): void {
  const { state } = step
  state.engine = engine
  state.bays = makeBays(state.self.staging)
  state.recycle = undefined
  for (const leg of undrainedLegs(step.state)) drainLeg(step, leg)
  for (const link of state.links.values()) {
    if (link.up && link.status !== 'lost') greet(step, link)
  }
  for (const request of state.requests.values()) advance(step, request)
}

export function onEngineFailed(step: DecodeStep, error: KvxError): void {
  step.state.broken = error
  for (const request of step.state.requests.values()) failRequest(step, request, error)
}
