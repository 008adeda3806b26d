/** The prefill leg: computes a prompt's cache and sends it, chunk by chunk, to whoever reserved pages for it. */
import { promptDigest, type PrefillManager } from '@kvx/core'
import { toKvxError } from '@kvx/contract'
import { prefill, type LlamaModel } from '@kvx/llama'
import type { Call } from './call.ts'
import type { CachePools } from './cache-pools.ts'
import type { Prefilled } from './compute.ts'
import { auxOf } from './first-tokens.ts'
import { byAddress, pagesOfTokens, pagesToFill, returnPages } from './pages.ts'
import type { WorkerMetrics } from './metrics.ts'

export interface PrefillSide {
  readonly model: LlamaModel
  readonly manager: PrefillManager
  readonly pools: CachePools
  readonly metrics: WorkerMetrics
  /** Milliseconds that a request waits for free pages. */
  readonly queueMs: number
}

/**
 * Resolves when decode has acknowledged the whole cache and the first token.
 * @throws KvxError with the first cause, whichever side it arose on
 */
export async function sendPrompt(
  { model, manager, pools, metrics, queueMs }: PrefillSide,
  { tokens, samples, sampling, signal, events }: Call,
  room: bigint,
): Promise<Prefilled> {
  const digest = promptDigest(tokens)
  const sender = manager.send(room, { tokens: tokens.length, digest })
  events('room.opened')
  // Ends a wait for pages or for the model when decode fails meanwhile.
  const over = new AbortController()
  void sender.settled.then(() => {
    if (sender.error !== undefined) over.abort(sender.error)
  })
  const either = AbortSignal.any([signal, over.signal])
  try {
    // Nothing is held until decode is there: a parked request must not keep others from running.
    const { firstTokens } = await sender.reserved({ signal })
    events('room.reserved')
    sender.queued()
    const counts = pagesToFill(model, tokens.length, firstTokens)
    const lease = await pools.allocate(counts, { signal: either, timeoutMs: queueMs })
    events('pages.leased', { pages: lease.count })
    const { state } = byAddress(model, lease.pages)
    try {
      const { firstToken, otherFirstTokens } = await prefill(model, {
        tokens,
        samples,
        pages: lease.pages,
        sampling,
        signal: either,
        onTurn: () => {
          sender.started()
        },
        onChunk: async (chunk) => {
          events('chunk.computed', { tokens: chunk.tokens })
          const pages = pagesOfTokens(model, tokens.length, lease.pages, chunk.tokens)
          if (Object.keys(pages).length > 0) {
            await sender.write({ tokens: chunk.tokens, pages }, { signal })
          }
          events('chunk.sent', { tokens: chunk.tokens })
        },
      })
      const firstTokens = [firstToken, ...otherFirstTokens]
      const summary = await sender.finish({ state, aux: auxOf(firstTokens) }, { signal })
      const transfer = { ...summary, backend: manager.engine.backend }
      events('transfer.complete', { ...transfer })
      metrics.transferred(summary.bytes)
      return { firstTokens, transfer }
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
