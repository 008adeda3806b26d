/**
 * Who sends what: for every byte of a decode rank exactly one prefill rank, found from the coordinates of both alone, so that
 * the two sides agree without asking. Where several prefill ranks hold copies, the decode ranks that want them divide
 * the copies among themselves, and a decode rank that has several to choose from takes one layer from each in turn.
 */
import type { ComponentShape, TensorShape } from '../shape/index.ts'
import { heldUnits, overlap, type Range } from './holdings.ts'
import type { Rank } from './rank.ts'

/**
 * Units of `tensor` that `prefill` sends to `decode`; undefined for none. Which tokens of them: those that both hold
 * (`heldTokens`).
 *
 * @param component of the tensor: what is addressed by request does not depend on tokens, so every context-parallel rank
 *   has a copy of it
 */
export function electedUnits(
  prefill: Rank,
  decode: Rank,
  { addressed }: Pick<ComponentShape, 'addressed'>,
  tensor: TensorShape,
): Range | undefined {
  const source = heldUnits(prefill, tensor)
  const destination = heldUnits(decode, tensor)
  const shared = source && destination && overlap(source, destination)
  if (!shared) return undefined
  const giver = copyOf(prefill, addressed, tensor.units)
  const taker = copyOf(decode, addressed, tensor.units)
  return giver.index === chosenCopy(giver.count, taker, tensor.layer) ? shared : undefined
}

/** Of all copies that prefill has of a unit, the one from which a decode rank takes a layer. */
function chosenCopy(copies: number, taker: Copy, layer: number): number {
  const first = Math.floor((taker.index * copies) / taker.count)
  const end = Math.floor(((taker.index + 1) * copies) / taker.count)
  return end - first < 2 ? first : first + (layer % (end - first))
}

interface Copy {
  readonly index: number
  readonly count: number
}

/** Of the ranks that hold the same units of the same layers and the same tokens, which one this is. */
function copyOf(
  { tp, tpSize, cp, cpSize, context }: Rank,
  addressed: ComponentShape['addressed'],
  units: number,
): Copy {
  const alike = Math.max(1, tpSize / units)
  const everywhere = context === 'all' || addressed === 'request'
  return {
    index: (everywhere ? cp : 0) * alike + (tp % alike),
    count: (everywhere ? cpSize : 1) * alike,
  }
}
