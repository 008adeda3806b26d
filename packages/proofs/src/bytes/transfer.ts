/** What kvx would write for a case: every prefill rank's writes to every decode rank that it serves. */
import {
  heldTokens,
  Pairing,
  requiredPrefillRanks,
  writtenPages,
  type Moved,
  type RequestPart,
  type TokenPart,
} from '@kvx/core/bytes'
import type { BytesCase, RankCase, WriteCase } from './case.ts'
import { copiesOf, type Copy } from './expand.ts'

/** From one prefill rank to one decode rank; positions in `BytesCase.prefill` and `BytesCase.decode`. */
export interface Sent {
  readonly from: number
  readonly to: number
  readonly copies: readonly Copy[]
  /** By component, what the plans said that they move, and what the ranks expect of each other. */
  readonly moved: ReadonlyMap<string, Moved>
  readonly expected: ReadonlyMap<string, Moved>
  /** Of all components, as the plans said. */
  readonly bytes: number
}

export function transfer(given: BytesCase): Sent[] {
  const { shape, prefill, decode } = given
  return decode.flatMap((destination, to) =>
    requiredPrefillRanks(shape, destination.rank, prefill, 0).map((source) => ({
      from: prefill.indexOf(source),
      to,
      ...betweenRanks(given, source, destination),
    })),
  )
}

function betweenRanks(given: BytesCase, source: RankCase, destination: RankCase) {
  const prompt = { tokens: given.tokens, prefix: given.prefix }
  const pairing = new Pairing(given.shape, source, destination)
  const copies: Copy[] = []
  const moved = new Map<string, Moved>()
  let bytes = 0
  for (const write of given.writes) {
    const parts = partsOf(given, write, { pairing, source, destination })
    const planned = pairing.plan(parts)
    copies.push(...copiesOf(planned.plan))
    for (const [i, part] of parts.entries()) {
      const { component } = part
      const before = pairing.units({ prompt, first: 0, ...part, count: part.source.length })
      const after = planned.moved[i] ?? { units: 0, bytes: 0 }
      if (before !== after.units) {
        throw new Error(
          `${component}: ${String(before)} units before, ${String(after.units)} after planning`,
        )
      }
      const sum = moved.get(component) ?? { units: 0, bytes: 0 }
      moved.set(component, {
        ...{ units: sum.units + after.units, bytes: sum.bytes + after.bytes },
      })
      bytes += after.bytes
    }
  }
  const expected = new Map(
    [...pairing.layers.keys()].map((name) => [name, pairing.expected(name, { prompt, slots: 1 })]),
  )
  return { copies, moved, expected, bytes }
}

/** What one write moves between two ranks. The state of a request goes with the last chunk. */
function partsOf(
  { shape, tokens, prefix }: BytesCase,
  write: WriteCase,
  { pairing, source, destination }: { pairing: Pairing; source: RankCase; destination: RankCase },
): (TokenPart | RequestPart)[] {
  const prompt = { tokens, prefix }
  const { layers } = write
  const shared = shape.components.filter(({ name }) => pairing.layers.has(name))
  return shared.flatMap(({ name, addressed }): (TokenPart | RequestPart)[] => {
    const [mine, theirs] = [source.pages[name] ?? [], destination.pages[name] ?? []]
    const part = { component: name, layers }
    if (addressed === 'request') {
      const [from, to] = [Int32Array.from(mine), Int32Array.from(theirs)]
      return write.tokens[1] === tokens ? [{ ...part, source: from, destination: to }] : []
    }
    const pageTokens = source.place.components[name]?.pageTokens ?? 1
    const held = heldTokens(source.rank, tokens, pageTokens)
    const [first, end] = writtenPages(held, pageTokens, tokens, write.tokens)
    const [low, high] = pairing.pages(name, prompt).destination
    return [
      {
        ...part,
        prompt,
        first,
        source: Int32Array.from(mine.slice(first, end)),
        destination: Int32Array.from(theirs.slice(low, high)),
      },
    ]
  })
}
