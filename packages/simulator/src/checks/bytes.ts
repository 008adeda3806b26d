/** Invariant 2: a request that succeeds has every byte. */
import type { ReceiveLeg } from '../books/legs.ts'
import { violate } from '../machine/violation.ts'
import { byteOf, components, type RankMemory } from '../shape/content.ts'

/** All bytes of the pages of a leg, or those that one prefill rank holds. */
export function checkBytes(
  { host, job, pages }: ReceiveLeg,
  pageTokens: number,
  check: string,
  of?: RankMemory,
): void {
  const { memory, slot } = host
  const { bytesOf, placeAt } = slot.memory
  const prefix = Math.floor(job.prefix / pageTokens)
  for (const name of components) {
    for (const [index, page] of pages[name].entries()) {
      const number = name === 'kv' ? prefix + index : 0
      for (const at of bytesOf[name][page]!) {
        const place = placeAt[at]!
        if (of && !of.places.has(place)) continue
        if (memory[at] === byteOf(job.prompt, number, place)) continue
        violate(check, `room ${job.room} of ${host.name}: page ${index} of ${name} lacks a byte`)
      }
    }
  }
}
