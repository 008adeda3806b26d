/** What a plan moves: its copies, and whose pages they read and fill, as the books say. */
import type { TransferPlan } from '@kvx/contract'
import type { ReceiveLeg, SendLeg } from '../books/legs.ts'
import { occupier, type Owner } from '../books/pages.ts'
import { violate } from '../machine/violation.ts'
import type { EngineLink } from '../ranks/link.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import type { Random } from '../shape/random.ts'
import { expand } from './copies.ts'

export interface Cargo {
  /** Source, destination and length of each copy, in the order in which they land: any. */
  readonly copies: Int32Array
  readonly bytes: number
  readonly reader: SendLeg | undefined
  readonly owner: ReceiveLeg | undefined
}

export function cargoOf(
  from: PrefillRank,
  link: EngineLink,
  plan: TransferPlan,
  random: Random,
): Cargo {
  const { target } = link
  const list: number[] = []
  let bytes = 0
  let source: Owner | undefined
  let destination: Owner | undefined
  let first = true
  const isHeard = target.alive && target.generation === link.generation && !link.revoked
  const regions = {
    source: from.slot.memory.regions,
    destination: target.slot.memory.regions,
  }
  expand(plan, regions, (at, to, count) => {
    if (first) {
      source = from.ownerOf(at)
      destination = isHeard ? target.ownerOf(to) : undefined
      first = false
    }
    for (let i = 0; i < count; i++) {
      const reader = from.ownerOf(at + i)
      if (reader === undefined || reader !== source)
        violate('post from a foreign page', `${from.name} posts a page that is not of one request`)
      if (!isHeard) continue
      const owner = target.ownerOf(to + i)
      if (owner === undefined || owner !== destination)
        violate(
          'post to a foreign page',
          `${from.name} posts into a page of ${target.name} of nobody, or of another`,
        )
      // Who sends a byte, and when, is decided once.
      if (target.posted[to + i] !== 0)
        violate('byte posted twice', `${from.name} posts what ${target.name} has been sent before`)
      target.posted[to + i] = 1
    }
    list.push(at, to, count)
    bytes += count
  })
  const reader = source === occupier ? undefined : (source as SendLeg | undefined)
  const owner = destination === occupier ? undefined : (destination as ReceiveLeg | undefined)
  if (reader && owner && reader.job.prompt !== owner.job.prompt)
    violate(
      'post to another prompt',
      `${from.name} posts prompt ${reader.job.prompt} into pages of prompt ${owner.job.prompt}`,
    )
  if (owner) {
    const known = owner.posted.get(from.incarnation)
    if (known) known.push(...list)
    else owner.posted.set(from.incarnation, [...list])
  }
  return { copies: disordered(list, random), bytes, reader, owner }
}

function disordered(list: readonly number[], random: Random): Int32Array {
  const order = random.shuffle(Array.from({ length: list.length / 3 }, (_, i) => i))
  const copies = new Int32Array(list.length)
  for (const [i, from] of order.entries())
    for (let field = 0; field < 3; field++) copies[3 * i + field] = list[3 * from + field]!
  return copies
}
