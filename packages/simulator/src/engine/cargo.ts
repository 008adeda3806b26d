/** What a plan moves: its copies, and whose pages they read and fill, as the books say. */
import type { TransferPlan } from '@kvx/contract'
import type { ReceiveLeg, SendLeg } from '../books/legs.ts'
import { occupier, type Owner } from '../books/pages.ts'
import { violate } from '../machine/violation.ts'
import type { EngineLink } from '../ranks/link.ts'
import type { PostedLoad } from '../ranks/decode.ts'
import type { PrefillRank } from '../ranks/prefill.ts'
import type { Random } from '../shape/random.ts'
import { expand } from './copies.ts'
import type { StagedCargo } from './write.ts'

export interface Cargo {
  /** Source, destination and length of each copy, in the order in which they land: any. */
  readonly copies: Int32Array
  readonly bytes: number
  readonly reader: SendLeg | undefined
  readonly owner: ReceiveLeg | undefined
  readonly staged: StagedCargo | undefined
}

export function cargoOf(
  from: PrefillRank,
  link: EngineLink,
  plan: TransferPlan,
  random: Random,
): Cargo {
  if (plan.lanes[0] === from.slot.memory.regions.length) return loadOf(from, link, plan, random)
  return { ...moved(from, link, plan, random), staged: undefined }
}

/** One long run, which lands in a bay. */
function loadOf(from: PrefillRank, link: EngineLink, plan: TransferPlan, random: Random): Cargo {
  const { target } = link
  const [, , fromOffset = 0, toOffset = 0, , , bytes = 0] = plan.lanes
  const at = from.bayAt(fromOffset, bytes)
  const gathered = from.gathered.get(at)
  if (gathered?.bytes !== bytes)
    violate('post of what was not gathered', `${from.name} posts ${bytes} bytes`)
  const cargo = moved(from, link, gathered.plan, random)
  const list: number[] = []
  const step = Math.ceil(bytes / 4)
  const isHeard = target.alive && target.generation === link.generation && !link.revoked
  const to = target.slot.memory.bytes + toOffset
  const bay = isHeard ? target.bays.get(to) : undefined
  if (isHeard && (bay?.reserve.leg !== cargo.owner || bay?.reserve.peer !== from.incarnation))
    violate('post to a foreign bay', `${from.name} posts to ${toOffset} of ${target.name}`)
  target.bayAt(toOffset, bytes)
  if (bay) bay.posted = cargo.meant
  for (let i = 0; i < bytes; i += step) list.push(at + i, to + i, Math.min(step, bytes - i))
  const staged = { gathered, bay, from: at, to, meant: cargo.meant }
  return { ...cargo, copies: disordered(list, random), staged }
}

/** What goes from page to page, now or after a while. */
function moved(
  from: PrefillRank,
  link: EngineLink,
  plan: TransferPlan,
  random: Random,
): Omit<Cargo, 'staged'> & { readonly meant: PostedLoad } {
  const { target } = link
  const meant = { at: [] as number[], to: [] as number[], scattered: false }
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
      meant.at.push(at + i)
      meant.to.push(to + i)
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
  return { copies: disordered(list, random), bytes, reader, owner, meant }
}

function disordered(list: readonly number[], random: Random): Int32Array {
  const order = random.shuffle(Array.from({ length: list.length / 3 }, (_, i) => i))
  const copies = new Int32Array(list.length)
  for (const [i, from] of order.entries())
    for (let field = 0; field < 3; field++) copies[3 * i + field] = list[3 * from + field]!
  return copies
}
