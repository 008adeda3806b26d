/** A request that decode does alone: it computes the prompt into pages of its own, from what its prefix cache has of it. */
import { neededPages } from '@kvx/core'
import { prefill, type LlamaModel } from '@kvx/llama'
import { shareableBeforeComputing, type CachePools } from './cache-pools.ts'
import { scoringOf, type Call } from './call.ts'
import type { Runs } from './compute.ts'
import { returnPages } from './pages.ts'
import { once, runsFrom } from './runs.ts'

interface LocalSide {
  readonly model: LlamaModel
  readonly pools: CachePools
  /** Milliseconds that a request waits for free pages. */
  readonly queueMs: number
}

/** @throws KvxError with the first cause of whatever fails while `use` runs */
export async function answerLocally(
  { model, pools, queueMs }: LocalSide,
  call: Call,
  use: (runs: Runs) => Promise<void>,
): Promise<void> {
  const { tokens, samples, sampling, events } = call
  const scoring = scoringOf(call.scoredFrom, sampling)
  let scores: Runs['scores'] = []
  const over = new AbortController()
  const signal = AbortSignal.any([call.signal, over.signal])
  let cachedTokens = 0
  let giveBack: () => void = () => undefined

  async function compute() {
    const lease = await pools.lease(
      {
        tokens,
        shareable: shareableBeforeComputing(tokens, scoring),
        counts: (prefixTokens) => neededPages(model.cache, { tokens: tokens.length, prefixTokens }),
      },
      { signal, timeoutMs: queueMs },
    )
    giveBack = once(() => {
      returnPages(lease, Promise.resolve(), events)
    })
    events('pages.leased', { pages: lease.count, cachedTokens: lease.cachedTokens })
    const { pages } = lease
    const begun = await prefill(model, {
      ...{ tokens, samples, pages, cachedTokens: lease.cachedTokens, sampling, scoring, signal },
    })
    lease.keep()
    cachedTokens = lease.cachedTokens
    ;({ scores } = begun)
    const { firstToken, otherFirstTokens, firstLogprobs } = begun
    return { firstTokens: [firstToken, ...otherFirstTokens], firstLogprobs, pages }
  }

  const computed = compute()
  // Whoever takes the first token of an answer is told of it.
  computed.catch(() => undefined)
  try {
    await use({
      runs: runsFrom(model, call, computed, () => {
        giveBack()
      }),
      transfer: undefined,
      get cachedTokens() {
        return cachedTokens
      },
      get scores() {
        return scores
      },
    })
  } finally {
    over.abort()
    await computed.catch(() => undefined)
    giveBack()
  }
}
