/** Loads of a leg: parts with short runs, which come as one long run into a bay and are scattered from there by this side. */
import { isKvxError, KvxError, type TransferPlan } from '@kvx/contract'
import type { Pairing, RequestPart, TokenPart } from '../../plan/index.ts'
import { bayOffset, loadsAtOnce } from '../bays.ts'
import { count } from '../keys.ts'
import type { MessageOf, PageLists, StagedPart } from '../messages.ts'
import { endLoad, freeBay, grant, refuseBay, sayBay, sayScattered } from './bays.ts'
import { onAccept } from './leg.ts'
import { promptOf } from './manifest.ts'
import { failRequest, settleIfDrained } from './request.ts'
import { about } from './send.ts'
import type { DecodeEvent, DecodeStep, Leg, Load, Request } from './state.ts'

export function onStage(step: DecodeStep, leg: Leg, message: MessageOf<'stage'>): void {
  const { state, now } = step
  const { load: number, bytes, ms } = message
  if (!isReceiving(leg)) {
    count(state.dropped, 'stage')
    return
  }
  onAccept(step, leg, 'paired')
  const known = leg.loads.get(number)
  if (known) {
    sayBay(step, known)
    return
  }
  // One that has ended was refused: whose bay is known is not asked for again.
  if (!state.self.staging || hasEnded(leg, number)) {
    refuseBay(step, leg, number)
    return
  }
  if (number > leg.endedTo + loadsAtOnce) {
    reject(
      step,
      leg,
      `asked for a bay for load ${String(number)} before load ${String(number - loadsAtOnce)} had ended`,
    )
    return
  }
  if (bytes > state.self.staging.bayBytes) {
    reject(
      step,
      leg,
      `asked for a bay of ${String(bytes)} bytes, and bays have ${String(state.self.staging.bayBytes)}`,
    )
    return
  }
  const load: Load = { leg, number, bytes, until: now + ms, phase: 'queued', bay: undefined }
  leg.loads.set(number, load)
  state.bayQueue.push(load)
  grant(step)
}

export function onStaged(step: DecodeStep, leg: Leg, message: MessageOf<'staged'>): void {
  const { load: number, parts } = message
  const { staging } = step.state.self
  if (!isReceiving(leg)) {
    count(step.state.dropped, 'staged')
    return
  }
  if (hasEnded(leg, number)) {
    sayScattered(step, leg, number)
    return
  }
  const load = leg.loads.get(number)
  if (load?.phase === 'scattering') return
  if (!load?.bay || !staging) {
    reject(step, leg, `staged load ${String(number)}, which has no bay`)
    return
  }
  const plan = planOf(leg, parts)
  if (typeof plan === 'string') {
    reject(step, leg, `staged load ${String(number)}, and ${plan}`)
    return
  }
  if (plan.bytes !== load.bytes) {
    reject(step, leg, `staged ${String(plan.bytes)} bytes in a bay for ${String(load.bytes)}`)
    return
  }
  load.phase = 'scattering'
  step.out.push({
    do: 'scatter',
    request: leg.request.id,
    epoch: leg.epoch,
    load: number,
    plan: plan.plan,
    offset: bayOffset(load.bay, staging),
  })
}

export function onScattered(step: DecodeStep, event: DecodeEvent & { type: 'scattered' }): void {
  const request = step.state.requests.get(event.request)
  const leg = request?.legs.find(({ epoch }) => epoch === event.epoch)
  const load = leg?.loads.get(event.load)
  if (!request || !leg || load?.phase !== 'scattering') return
  endLoad(load)
  freeBay(step, load)
  if (request.error) {
    settleIfDrained(step, request)
  } else if (event.error) {
    failRequest(step, request, event.error)
  } else {
    leg.stagedBytes += load.bytes
    sayScattered(step, leg, load.number)
  }
}

function isReceiving({ phase, request }: Leg): boolean {
  return (
    request.error === undefined &&
    (phase === 'reserving' || phase === 'parked' || phase === 'paired')
  )
}

function hasEnded({ ended, endedTo }: Leg, load: number): boolean {
  return load <= endedTo || ended.has(load)
}

/** What prefill says cannot be. */
function reject(step: DecodeStep, leg: Leg, what: string): void {
  const error = about(
    leg.link,
    'ERR_KVX_PROTOCOL',
    'transfer',
    `${what}. Run the same kvx on both sides.`,
  )
  step.news.push({ leg, happened: 'failed', error })
}

/**
 * Computed here from what is known here: whatever prefill says, nothing is written but pages that this request has provided.
 * Which pages of prefill it was does not matter.
 */
function planOf(
  { request, link: { pairing } }: Leg,
  parts: readonly StagedPart[],
): { plan: TransferPlan; bytes: number } | string {
  const pages = request.destination?.pages
  if (!pages || !pairing) return 'was never given pages'
  if (parts.length > pairing.layers.size) return 'named a component twice'
  try {
    const planned = parts.map((part) => partOf(part, { pages, pairing, request }))
    const { plan, moved } = pairing.plan(planned)
    return { plan, bytes: moved.reduce((sum, { bytes }) => sum + bytes, 0) }
  } catch (error) {
    if (isKvxError(error)) return error.message.replace(/\.$/, '')
    throw error
  }
}

function partOf(
  { component, layers, first, count }: StagedPart,
  { pages, pairing, request }: { pages: PageLists; pairing: Pairing; request: Request },
): TokenPart | RequestPart {
  const prompt = promptOf(request)
  const isOfTokens = pairing.component(component).table !== undefined
  const destination =
    (Object.hasOwn(pages, component) ? pages[component] : undefined) ?? new Int32Array()
  const end = (first ?? 0) + count
  const most = isOfTokens ? pairing.sourcePages(component, prompt) : destination.length
  if (isOfTokens !== (first !== undefined) || end > most) {
    throw new KvxError(
      'ERR_KVX_PLAN_INVALID',
      `the pages ${String(first)} to ${String(end)} of '${component}' are not those of a prompt that has ${String(most)}`,
    )
  }
  const source = new Int32Array(count)
  if (first === undefined) return { component, layers, source, destination }
  return { component, layers, prompt, first, source, destination }
}
