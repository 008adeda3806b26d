/** The decode side of a synthetic request: takes pages, waits, and looks at every byte. */
import { providedPages } from '@kvx/core/bytes'
import { describeMismatch, verify } from '../bytes.ts'
import type { Job } from './options.ts'
import {
  digestOf,
  firstTokenOf,
  splitByAddress,
  wrongAnswer,
  type RankResult,
  type SyntheticRank,
} from './rank.ts'

export async function receiveRequest(host: SyntheticRank, job: Job): Promise<RankResult> {
  const { tokens, prefix } = job
  const { shape, rank, place, bootstrap, isVerified } = host.options
  const started = performance.now()
  const { manager } = host
  if (manager.role !== 'decode') throw new TypeError('a prefill rank receives nothing')
  const receiver = manager.receive(BigInt(job.room), {
    ...{ from: bootstrap, tokens, digest: digestOf(job) },
    ...job.dpRank,
  })
  receiver.done.catch(() => undefined)
  host.onAbort(job.room, () => {
    receiver.abort()
  })
  const provided = (name: string) => {
    const component = shape.components.find((one) => one.name === name)
    return providedPages(component!, rank, place.components[name]!, { tokens, prefix })
  }
  let taken
  try {
    taken = await host.take(job, (name, pageTokens) => {
      if (pageTokens === undefined) return 1
      const [first, end] = provided(name)
      return end - first
    })
    const { pages, state } = splitByAddress(host.options, taken.lists)
    await receiver.reserve({ pages, state, prefixTokens: prefix })
    const { aux, report } = await receiver.done
    const ms = performance.now() - started
    await receiver.settled
    if (aux.firstToken !== firstTokenOf(job)) {
      throw wrongAnswer(
        `The first token must be ${String(firstTokenOf(job))}, got ${String(aux.firstToken)}.`,
      )
    }
    const { bytes: moved, chunks } = report
    const arrived = { ms, transferMs: report.ms, bytes: moved, chunks }
    if (!isVerified || job.isFake) return arrived
    // Page numbers count from the beginning of the prompt; before what was needed there is none.
    const lists = Object.fromEntries(
      Object.entries(pages).map(([name, list]) => {
        const [first, end] = provided(name)
        const all = new Int32Array(end).fill(-1)
        all.set(list, first)
        return [name, all]
      }),
    )
    const { bytes, mismatch } = verify(host.cache({ ...lists, ...state }), job, { prefix })
    return {
      ...arrived,
      verifiedBytes: bytes,
      ...(mismatch && { mismatch: describeMismatch(mismatch) }),
    }
  } finally {
    receiver.abort() // does nothing after the end
    await receiver.settled
    taken?.release()
  }
}
