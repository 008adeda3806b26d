/** The prefill leg: computes a prompt's cache and sends it, chunk by chunk, to whoever reserved pages for it. */
import { promptDigest, type PrefillManager } from '@kvx/core'
import { toKvxError } from '@kvx/contract'
import { prefill, type LlamaModel } from '@kvx/llama'
import { scoringOf, type Call } from './call.ts'
import { shareableBeforeComputing, type CachePools } from './cache-pools.ts'
import type { Prefilled } from './compute.ts'
import { auxOf } from './beginning.ts'
import { byAddress, pagesOfTokens, pagesToFill, returnPages } from './pages.ts'
import type { WorkerMetrics } from './metrics.ts'

export interface PrefillSide {
  readonly model: LlamaModel
  readonly manager: PrefillManager
  readonly pools: CachePools
  readonly metrics: Pick<WorkerMetrics, 'transferFailed'>
  /** Milliseconds that a request waits for free pages. */
  readonly queueMs: number
}

/**
 * Resolves when decode has acknowledged the whole cache and the first token.
 * @param opened is called when the room is this request's: decode is told of whatever fails from then on
 * @throws KvxError with the first cause, whichever side it arose on
 */
export async function sendPrompt(
  { model, manager, pools, metrics, queueMs }: PrefillSide,
  { tokens, samples, sampling, scoredFrom, signal, events }: Call,
  room: bigint,
  opened: () => void = () => undefined,
): Promise<Prefilled> {
  const digest = promptDigest(tokens)
  const scoring = scoringOf(scoredFrom, sampling)
  const sender = manager.send(room, { tokens: tokens.length, digest })
  events('room.opened')
  opened()
  // Ends a wait for pages or for the model when decode fails meanwhile.
  const over = new AbortController()
  void sender.settled.then(() => {
    if (sender.error !== undefined) over.abort(sender.error)
  })
  const either = AbortSignal.any([signal, over.signal])
  try {
    // Nothing is held until decode is there: a parked request must not keep others from running.
    const { firstTokens: needed } = await sender.reserved({ signal })
    const firstNeeded = (component: string) => needed[component] ?? 0
    events('room.reserved')
    sender.queued()
    const queuedAt = performance.now()
    let waitedMs = 0
    const lease = await pools.lease(
      {
        tokens,
        shareable: shareableBeforeComputing(tokens, scoring),
        counts: (cached) =>
          pagesToFill(model, tokens.length, pools.hasPrefixCache ? () => cached : firstNeeded),
      },
      { signal: either, timeoutMs: queueMs },
    )
    const { pages, cachedTokens } = lease
    events('pages.leased', { pages: lease.count, cachedTokens })
    const send = async (range: readonly [number, number]) => {
      const ready = pagesOfTokens(model, tokens.length, pages, range)
      if (Object.keys(ready).length > 0) {
        await sender.write({ tokens: range, pages: ready }, { signal })
      }
      events('chunk.sent', { tokens: range })
    }
    try {
      if (cachedTokens > 0) await send([0, cachedTokens])
      const { firstToken, otherFirstTokens, firstLogprobs, scores } = await prefill(model, {
        ...{ tokens, samples, pages, cachedTokens, sampling, scoring, signal: either },
        onTurn: () => {
          sender.started()
          waitedMs = performance.now() - queuedAt
        },
        onChunk: async (chunk) => {
          events('chunk.computed', { tokens: chunk.tokens })
          await send(chunk.tokens)
        },
      })
      lease.keep()
      const firstTokens = [firstToken, ...otherFirstTokens]
      const { state } = byAddress(model, pages)
      const aux = auxOf({ firstTokens, firstLogprobs, cachedTokens, queueMs: waitedMs })
      const summary = await sender.finish({ state, aux }, { signal })
      const transfer = { ...summary, queueMs: waitedMs, backend: manager.engine.backend }
      events('transfer.complete', { ...transfer })
      return { firstTokens, firstLogprobs, scores, cachedTokens, transfer }
    } catch (cause) {
      // Before the pages are given up: what is in flight must be called back, not waited for.
      sender.abort(toKvxError(cause))
      throw cause
    } finally {
      returnPages(lease, sender.settled, events)
    }
  } catch (cause) {
    sender.abort(toKvxError(cause))
    // The first cause, as decode is told it.
    const error = sender.error ?? toKvxError(cause)
    metrics.transferFailed(error)
    throw error
  }
}
