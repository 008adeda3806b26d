/** A request of a trace at either side: blocks that decode has already do not cross. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Job } from '../synthetic/options.ts'
import {
  digestOf,
  firstTokenOf,
  wrongAnswer,
  type RankResult,
  type SyntheticRank,
} from '../synthetic/rank.ts'
import type { BlockCache } from './blocks.ts'
import { fillBlocks, verifyBlocks } from './content.ts'
import { blockTokens } from './read.ts'

const component = 'kv'

/** @param onLeased is called when decode has its pages: then prefill may begin */
export async function receiveBlocks(
  host: SyntheticRank,
  job: Job,
  cache: BlockCache,
  onLeased: () => void,
): Promise<RankResult> {
  const { tokens, blocks = [], holdMs = 0 } = job
  const { manager, options } = host
  if (manager.role !== 'decode') throw new TypeError('a prefill rank receives nothing')
  const { pageTokens = 1 } = options.place.components[component] ?? {}
  // One token must be computed for the first one of the answer.
  const known = blocks.slice(0, Math.floor((tokens - 1) / blockTokens))
  const pagesOf = (block: number): number =>
    Math.ceil(Math.min(blockTokens, tokens - block * blockTokens) / pageTokens)
  const began = performance.now()
  const { pinned, leases } = await cache.take(known, (held) =>
    blocks.slice(held).map((_, i) => pagesOf(held + i)),
  )
  const pagesMs = performance.now() - began
  const prefix = pinned.length * blockTokens
  const kept = [...pinned]
  const own = [...leases]
  try {
    const receiver = manager.receive(BigInt(job.room), {
      ...{ from: job.from ?? options.bootstrap, tokens, digest: digestOf(job) },
    })
    receiver.done.catch(() => undefined)
    host.onAbort(job.room, () => {
      receiver.abort()
    })
    try {
      onLeased()
      const pages = Int32Array.from(leases.flatMap((lease) => [...lease.pages]))
      await receiver.reserve({ pages: { [component]: pages }, prefixTokens: prefix })
      const { aux, report } = await receiver.done
      await receiver.settled
      if (aux.firstToken !== firstTokenOf(job)) {
        throw wrongAnswer(
          `The first token must be ${String(firstTokenOf(job))}, got ${String(aux.firstToken)}.`,
        )
      }
      // A block that is not whole is nobody's prefix.
      const whole = blocks.slice(pinned.length, Math.floor(tokens / blockTokens))
      for (const id of whole) kept.push(cache.keep(id, own.shift()!))
      const all = [...pinned.map(({ lease }) => lease), ...leases].flatMap(({ pages: some }) => [
        ...some,
      ])
      const looked = options.isVerified
        ? verifyBlocks(host.cache({ [component]: Int32Array.from(all) }), job)
        : undefined
      await delay(holdMs)
      return {
        ...{ pagesMs, prefixTokens: prefix, transferMs: report.ms, bytes: report.bytes },
        ...(looked && { verifiedBytes: looked.bytes }),
        ...(looked?.mismatch !== undefined && { mismatch: looked.mismatch }),
      }
    } finally {
      receiver.abort() // does nothing after the end
      await receiver.settled
    }
  } finally {
    cache.unpin(kept)
    for (const lease of own) cache.release(lease)
  }
}

export async function sendBlocks(host: SyntheticRank, job: Job): Promise<RankResult> {
  const { tokens } = job
  const { manager, options } = host
  if (manager.role !== 'prefill') throw new TypeError('a decode rank sends nothing')
  const { pageTokens = 1 } = options.place.components[component] ?? {}
  const sender = manager.send(BigInt(job.room), { tokens, digest: digestOf(job) })
  host.onAbort(job.room, () => {
    sender.abort()
  })
  let taken
  try {
    const { firstTokens } = await sender.reserved()
    const first = Math.floor((firstTokens[component] ?? 0) / pageTokens)
    taken = await host.take(job, () => Math.ceil(tokens / pageTokens) - first)
    const pages = taken.lists[component]!
    // Before what decode needs there is no page.
    const all = new Int32Array(first + pages.length).fill(-1)
    all.set(pages, first)
    const cache = host.cache({ [component]: all })
    for (let from = first * pageTokens; from < tokens; from += job.chunk) {
      const to = Math.min(tokens, from + job.chunk)
      if (options.isVerified) fillBlocks(cache, job, [from, to])
      const part = all.subarray(from / pageTokens, Math.ceil(to / pageTokens))
      await sender.write({ tokens: [from, to], pages: { [component]: part } })
    }
    await sender.finish({ aux: { firstToken: firstTokenOf(job) } })
    return {}
  } finally {
    sender.abort() // does nothing after the end
    await sender.settled
    taken?.release()
  }
}
