/** All ranks of an instance. */
import { makeRank, type Rank } from '@kvx/core/bytes'

/** Sizes; those that are left out are 1. `context` and `stages` as in `Rank`. */
export type Topology = Partial<
  Pick<Rank, 'tpSize' | 'ppSize' | 'cpSize' | 'dpSize' | 'context' | 'stages'>
>

/** @param layers of the cache, which are spread evenly over the stages unless `stages` says otherwise */
export function ranksOf(topology: Topology, layers: number): Rank[] {
  const { tpSize = 1, cpSize = 1, dpSize = 1, stages } = topology
  const ppSize = topology.ppSize ?? (stages ? stages.length - 1 : 1)
  const upTo = (size: number) => Array.from({ length: size }, (_, i) => i)
  return upTo(dpSize).flatMap((dp) =>
    upTo(ppSize).flatMap((pp) =>
      upTo(cpSize).flatMap((cp) =>
        upTo(tpSize).map((tp) => makeRank(layers, { ...topology, ppSize, tp, pp, cp, dp })),
      ),
    ),
  )
}
