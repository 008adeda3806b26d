/**
 * Bays of this side's staging memory: who has which, and who waits. A bay belongs to a load until that is scattered, or nothing
 * of its leg can land any more.
 */
import { bayOffset, giveBay, takeBay } from '../bays.ts'
import { sendTo } from './send.ts'
import type { DecodeStep, Leg, Load } from './state.ts'

/** Gives the free bays to those who wait, first come first served. */
export function grant(step: DecodeStep): void {
  const { bays, bayQueue } = step.state
  for (let load = bayQueue[0]; load; load = bayQueue[0]) {
    const bay = takeBay(bays)
    if (!bay) return
    bayQueue.shift()
    load.bay = bay
    load.phase = 'granted'
    sayBay(step, load)
  }
}

/** Where the bay of a load is. Said again when that may have been lost. */
export function sayBay(step: DecodeStep, { leg, number, bay }: Load): void {
  const { staging } = step.state.self
  if (bay && staging) sayOf(step, leg, { k: 'bay', load: number, offset: bayOffset(bay, staging) })
}

/** There is no bay for this load. */
export function refuseBay(step: DecodeStep, leg: Leg, load: number): void {
  sayOf(step, leg, { k: 'bay', load })
}

export function sayScattered(step: DecodeStep, leg: Leg, load: number): void {
  sayOf(step, leg, { k: 'scattered', load })
}

function sayOf(
  step: DecodeStep,
  { link, epoch }: Leg,
  body: { k: 'bay' | 'scattered'; load: number; offset?: number },
): void {
  sendTo(step, link, { gen: step.state.engine.generation, ep: epoch, ...body })
}

/** Who has waited for as long as prefill waits gets none. */
export function watchBays(step: DecodeStep): void {
  const { bayQueue } = step.state
  for (const load of bayQueue.filter(({ until }) => step.now >= until)) {
    bayQueue.splice(bayQueue.indexOf(load), 1)
    endLoad(load)
    refuseBay(step, load.leg, load.number)
  }
}

/** It is in its pages, or takes no bay: prefill may ask for further ones. */
export function endLoad({ leg, number }: Load): void {
  const { loads } = leg
  loads.delete(number)
  leg.ended.add(number)
  while (leg.ended.delete(leg.endedTo + 1)) leg.endedTo++
}

/** Its bay is free: what was written into it has landed, or never will. */
export function freeBay(step: DecodeStep, load: Load): void {
  if (!load.bay) return
  giveBay(load.bay)
  load.bay = undefined
  grant(step)
}

/** Its leg has failed: what waits for a bay gets none. Bays that were given stay with it, as they may be written to. */
export function dropQueued({ state }: DecodeStep, leg: Leg): void {
  for (const load of leg.loads.values()) {
    if (load.phase !== 'queued') continue
    state.bayQueue.splice(state.bayQueue.indexOf(load), 1)
    leg.loads.delete(load.number)
  }
}

/** Nothing of its leg can land any more. What is being scattered ends by itself. */
export function freeBays(step: DecodeStep, leg: Leg): void {
  // First, or it would be given the bays that become free here.
  dropQueued(step, leg)
  for (const load of leg.loads.values()) {
    if (load.phase !== 'granted') continue
    leg.loads.delete(load.number)
    freeBay(step, load)
  }
}

/** Bytes are on their way from a bay into pages of its request. */
export function isScattering({ loads }: Leg): boolean {
  for (const { phase } of loads.values()) if (phase === 'scattering') return true
  return false
}
