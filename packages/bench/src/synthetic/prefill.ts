/** The prefill side of a synthetic request: computes bytes instead of a model, and writes them as they are there. */
import { countHeld, heldTokens, pagesWith, type Range } from '@kvx/core/bytes'
import { fill } from '../bytes.ts'
import type { Job } from './options.ts'
import { randomOf, shuffle } from './random.ts'
import {
  digestOf,
  firstTokenOf,
  splitByAddress,
  type RankResult,
  type SyntheticRank,
} from './rank.ts'

export async function sendRequest(
  host: SyntheticRank,
  job: Job,
  onWritten: () => void,
): Promise<RankResult> {
  const { tokens } = job
  const { rank, place } = host.options
  const { manager } = host
  if (manager.role !== 'prefill') throw new TypeError('a decode rank sends nothing')
  const sender = manager.send(BigInt(job.room), {
    ...{ tokens, digest: digestOf(job) },
    ...job.dpRank,
  })
  host.onAbort(job.room, () => {
    sender.abort()
  })
  const held = (pageTokens: number) => heldTokens(rank, tokens, pageTokens)
  const aborted = async () => {
    onWritten()
    await sender.settled
    throw sender.error ?? new Error('The request was to be aborted, and ended well.')
  }
  let taken
  try {
    const { firstTokens } = await sender.reserved()
    taken = await host.take(job, (_, pageTokens) =>
      pageTokens === undefined ? 1 : Math.ceil(countHeld(held(pageTokens), 0, tokens) / pageTokens),
    )
    const { pages, state } = splitByAddress(host.options, taken.lists)
    const cache = host.cache(taken.lists)
    const chunks = chunksOf(job, Math.min(tokens, ...Object.values(firstTokens)))
    const isInParts = job.layersPerWrite !== undefined && chunks.length > 0
    for (const [i, chunk] of chunks.entries()) {
      const chunkPages = Object.fromEntries(
        Object.entries(pages).map(([name, list]) => {
          const { pageTokens = 1 } = place.components[name] ?? {}
          return [name, list.subarray(...pagesWith(held(pageTokens), pageTokens, chunk))]
        }),
      )
      const isLast = i === chunks.length - 1
      for (const layers of layerRanges(host.layers, job)) {
        compute(host, job, cache, { pages: true, tokens: chunk, layers })
        if (isLast && isInParts) compute(host, job, cache, { pages: false, layers })
        await sender.write({
          ...{ tokens: chunk, pages: chunkPages, layers },
          ...(isLast && isInParts && { state }),
        })
        if (job.isAborted) await aborted()
      }
    }
    // Where nobody needs a page nothing was written.
    if (job.isAborted) await aborted()
    if (!isInParts) compute(host, job, cache, { pages: false, layers: host.layers })
    await sender.finish({ ...(!isInParts && { state }), aux: { firstToken: firstTokenOf(job) } })
    return {}
  } finally {
    sender.abort() // does nothing after the end
    await sender.settled
    taken?.release()
  }
}

/** From the first token that anybody needs on. */
function chunksOf({ tokens, chunk }: Job, first: number): Range[] {
  const chunks: Range[] = []
  for (let from = first; from < tokens; from += chunk) {
    chunks.push([from, Math.min(tokens, from + chunk)])
  }
  return chunks
}

function layerRanges([first, end]: Range, { layersPerWrite, outOfOrder, seed }: Job): Range[] {
  const each = layersPerWrite ?? end - first
  const ranges: Range[] = []
  for (let from = first; from < end; from += each) ranges.push([from, Math.min(end, from + each)])
  return outOfOrder ? shuffle(ranges, randomOf(seed)) : ranges
}

/** Pages of some tokens, or the state, of some layers; nothing when nobody will look at them. */
function compute(
  { options }: SyntheticRank,
  job: Job,
  cache: Parameters<typeof fill>[0],
  part: { pages: boolean; tokens?: Range; layers: Range },
): void {
  if (!options.isVerified || job.isFake) return
  const { pages, state } = splitByAddress(options, cache.pages as Record<string, Int32Array>)
  fill({ ...cache, pages: part.pages ? pages : state }, job, {
    tokens: part.tokens ?? [0, 0],
    layers: part.layers,
  })
}
