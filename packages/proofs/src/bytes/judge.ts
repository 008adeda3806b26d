/** Is what kvx would write for a case what the reference wants? */
import {
  checkPlace,
  checkSameShape,
  checkShape,
  packPlace,
  packShape,
  unpackPlace,
  unpackShape,
} from '@kvx/core/bytes'
import type { BytesCase, RankCase } from './case.ts'
import { expectedCopies, unserved, verify, type Move } from './reference.ts'
import { transfer } from './transfer.ts'

/** What is wrong, in words; nothing for a case that is right. */
export function judge(given: BytesCase): string[] {
  const { shape, prefill, decode, tokens, prefix: prefixTokens } = given
  checkShape(shape)
  checkSameShape(shape, unpackShape(packShape(shape)))
  for (const rank of [...prefill, ...decode]) checkPacked(given, rank)
  const sent = transfer(given)
  const moves = sent.flatMap(({ from, to, copies }) =>
    copies.map(({ bytes, ...copy }): Move => ({
      fromRank: from,
      toRank: to,
      length: bytes,
      ...copy,
    })),
  )
  const wanted = { tokens, prefixTokens, from: 0, end: tokens, state: true }
  const layers = [0, shape.layers] as const
  const expected = expectedCopies(shape, prefill, decode, { ...wanted, layers })
  return [
    ...unserved(expected),
    ...verify(moves, expected),
    ...sent.flatMap(({ from, to, copies, moved, expected: counted, bytes }) => {
      const pair = `prefill rank ${String(from)} and decode rank ${String(to)}`
      const said = (name: string) => moved.get(name) ?? { units: 0, bytes: 0 }
      const wrong = [...counted].filter(
        ([name, { units, bytes }]) => said(name).units !== units || said(name).bytes !== bytes,
      )
      const copied = copies.reduce((sum, copy) => sum + copy.bytes, 0)
      return [
        ...wrong.map(
          ([name, { units, bytes: all }]) =>
            `${pair} expect ${String(units)} units and ${String(all)} bytes of ${name}, and plans say ${String(said(name).units)} and ${String(said(name).bytes)}`,
        ),
        ...(copied === bytes
          ? []
          : [`${pair}: plans say ${String(bytes)} bytes, and ${String(copied)} are copied`]),
      ]
    }),
  ]
}

/** What travels says the same as what stayed. */
function checkPacked({ shape }: BytesCase, { rank, place, regionBytes }: RankCase): void {
  checkPlace(shape, rank, place, regionBytes)
  checkPlace(shape, rank, unpackPlace(packPlace(place)), regionBytes)
}
