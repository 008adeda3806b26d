/** The pages of a leg: leased, filled with what the model computes or with rubbish, given back. */
import { spoil, type Leg, type SendLeg } from '../books/legs.ts'
import type { RankProcess } from '../ranks/rank.ts'
import { eachByte } from '../shape/content.ts'
import type { HeldComponent } from '../shape/memory.ts'

/** Bytes that nobody has written: of a page that is given to a request, and of one that is free. */
const rubbish = { leased: 0xee, free: 0xdd } as const

/** Pages of the prompt that a leg needs of a component: the numbers of the first and of the one after the last. */
type Needs = (held: HeldComponent) => readonly [first: number, end: number]

/** Of each component so many as the leg needs, or none at all. */
export function takePages(rank: RankProcess, leg: Leg, needs: Needs): boolean {
  for (const held of rank.slot.memory.held) {
    const { name } = held.component
    const [first, end] = needs(held)
    const lease = rank.books.get(name)!.take(end - first, leg)
    if (!lease) {
      giveAllBack(rank, leg)
      // It may end without ever getting others: then these belong to somebody else.
      leg.pages.clear()
      // To wait for pages is no fault, unless ranks that do not ask together wait for each other.
      const { tpSize, ppSize, cpSize } = rank.slot.rank
      if (leg.side === 'decode' && (leg.job.late || tpSize * ppSize * cpSize > 1)) spoil(leg.job)
      return false
    }
    leg.leases.set(name, lease)
    leg.pages.set(name, { held, first, pages: lease.pages.slice(), prompt: leg.job })
  }
  return true
}

export function giveAllBack(rank: RankProcess, leg: Leg): void {
  for (const [name, lease] of leg.leases) {
    rank.books.get(name)!.disown(leg.pages.get(name)!.pages)
    clear(rank, leg, name, 'free')
    lease.release()
  }
  leg.leases.clear()
}

export function clear(
  { memory, posted }: RankProcess,
  leg: Leg,
  name: string,
  as: keyof typeof rubbish,
): void {
  const { held, pages } = leg.pages.get(name)!
  for (const page of pages) {
    for (const at of held.bytesOf[page]!) {
      memory[at] = rubbish[as]
      posted[at] = 0
    }
  }
}

/** What the model computes. */
export function fill({ memory, slot }: RankProcess, leg: SendLeg): void {
  for (const pages of leg.pages.values())
    eachByte(slot.memory, pages, (at, byte) => {
      memory[at] = byte
    })
}
