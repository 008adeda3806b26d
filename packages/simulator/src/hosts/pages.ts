/** The pages of a leg: leased, filled with what the model computes or with rubbish, given back. */
import { spoil, type Leg, type SendLeg } from '../books/legs.ts'
import type { RankProcess } from '../ranks/rank.ts'
import { byteOf, components, type Component } from '../shape/content.ts'

/** Bytes that nobody has written: of a page that is given to a request, and of one that is free. */
const rubbish = { leased: 0xee, free: 0xdd } as const

/** Of each component so many as the leg needs, or none at all. */
export function takePages(rank: RankProcess, leg: Leg, cachePages: number): boolean {
  const isStateful = leg.job.withState && rank.slot.memory.held.includes('mamba')
  const counts = { kv: cachePages, mamba: isStateful ? 1 : 0 }
  for (const name of components) {
    const lease = rank.books[name].take(counts[name], leg)
    if (!lease) {
      for (const taken of components) {
        giveBack(rank, leg, taken)
        // It may end without ever getting others: then these belong to somebody else.
        leg.pages[taken] = new Int32Array()
      }
      // To wait for pages is no fault, unless ranks that do not ask together wait for each other.
      const { tpSize, ppSize } = rank.slot.rank
      if (leg.side === 'decode' && (leg.job.late || tpSize * ppSize > 1)) spoil(leg.job)
      return false
    }
    leg.leases[name] = lease
    leg.pages[name] = lease.pages.slice()
  }
  return true
}

export function giveBack(rank: RankProcess, leg: Leg, name: Component): void {
  const lease = leg.leases[name]
  if (!lease) return
  leg.leases[name] = undefined
  rank.books[name].disown(leg.pages[name])
  clear(rank, leg, name, 'free')
  lease.release()
}

export function giveAllBack(rank: RankProcess, leg: Leg): void {
  for (const name of components) giveBack(rank, leg, name)
}

export function clear(
  { memory, slot }: RankProcess,
  leg: Leg,
  name: Component,
  as: keyof typeof rubbish,
): void {
  for (const page of leg.pages[name])
    for (const at of slot.memory.bytesOf[name][page]!) memory[at] = rubbish[as]
}

/** What the model computes. */
export function fill({ memory, slot }: RankProcess, leg: SendLeg): void {
  for (const name of components) {
    for (const [index, page] of leg.pages[name].entries()) {
      const number = name === 'kv' ? index : 0
      for (const at of slot.memory.bytesOf[name][page]!)
        memory[at] = byteOf(leg.job.prompt, number, slot.memory.placeAt[at]!)
    }
  }
}

/** As the protocol names pages of state components. */
export function stateOf({ pages }: Leg): Record<string, Int32Array> {
  return pages.mamba.length > 0 ? { mamba: pages.mamba } : {}
}
