/** The decode leg: finds prefill, reserves pages, waits until the prompt's cache is in them, and goes on from there. */
import { neededPages, promptDigest, type DecodeManager } from '@kvx/core'
import { toKvxError } from '@kvx/contract'
import type { LlamaModel } from '@kvx/llama'
import type { Transferred } from '../answers/rendering.ts'
import type { Call } from './call.ts'
import type { CachePools } from './cache-pools.ts'
import type { Runs } from './compute.ts'
import { beginningIn } from './beginning.ts'
import { byAddress, returnPages } from './pages.ts'
import { once, runsFrom } from './runs.ts'
import type { Strangers } from './strangers.ts'
import type { WorkerMetrics } from './metrics.ts'

export interface DecodeSide {
  readonly model: LlamaModel
  readonly manager: DecodeManager
  readonly pools: CachePools
  readonly metrics: Pick<WorkerMetrics, 'transferFailed'>
  /** Milliseconds that a request waits for free pages. */
  readonly queueMs: number
  readonly strangers: Strangers
}

/**
 * Calls `use` when prefill has answered: then it is time to tell the client that its request is taken.
 * @param find the bootstrap service of the prefill instance
 * @throws KvxError as `Strangers.reach`, and with the first cause of whatever fails while `use` runs
 */
export async function receivePrompt(
  { model, manager, pools, metrics, queueMs, strangers }: DecodeSide,
  call: Call,
  room: bigint,
  find: () => Promise<string>,
  use: (runs: Runs) => Promise<void>,
): Promise<void> {
  const { tokens, samples, signal, events } = call
  const receive = (from: string) => {
    const opened = manager.receive(room, {
      ...{ from, tokens: tokens.length },
      digest: promptDigest(tokens),
    })
    events('room.opened')
    return opened
  }
  // No page is taken for an address at which no prefill is; it then waits with this side for the pages.
  const receiver = await strangers.reach({ room, find, receive, signal })
  let transfer: Transferred | undefined
  let cached = 0
  let giveBack: () => void = () => undefined

  /** The pages that hold the cache, and the first token of each answer. */
  async function arrival() {
    // Ends the wait for pages when prefill fails meanwhile.
    const over = new AbortController()
    receiver.done.catch((error: unknown) => {
      over.abort(error)
    })
    const either = AbortSignal.any([signal, over.signal])
    const queuedAt = performance.now()
    const lease = await pools.lease(
      {
        tokens,
        shareable: tokens.length,
        counts: (prefixTokens) => neededPages(model.cache, { tokens: tokens.length, prefixTokens }),
      },
      { signal: either, timeoutMs: queueMs },
    )
    const { cachedTokens: prefixTokens } = lease
    const waitedMs = performance.now() - queuedAt
    giveBack = once(() => {
      returnPages(lease, receiver.settled, events)
    })
    events('pages.leased', { pages: lease.count, prefixTokens })
    try {
      await receiver.reserve({ ...byAddress(model, lease.fresh), prefixTokens }, { signal })
      events('room.reserved')
      const { aux, report } = await receiver.done
      const beginning = beginningIn(aux, samples, model.vocabularySize)
      const { firstTokens, firstLogprobs, cachedTokens } = beginning
      lease.keep()
      const queued = waitedMs + beginning.queueMs
      transfer = { ...report, prefixTokens, queueMs: queued, backend: manager.engine.backend }
      cached = cachedTokens
      events('transfer.complete', { ...transfer })
      return { firstTokens, firstLogprobs, pages: lease.pages }
    } catch (cause) {
      const error = receiver.error ?? toKvxError(cause)
      metrics.transferFailed(error)
      throw error
    }
  }

  const abort = () => {
    receiver.abort('The client closed its connection.')
  }
  signal.addEventListener('abort', abort, { once: true })
  if (signal.aborted) abort()
  const arrived = arrival()
  // Whoever takes the first token of an answer is told of it.
  arrived.catch(() => undefined)
  try {
    const runs = runsFrom(model, call, arrived, () => {
      giveBack()
    })
    await use({
      runs,
      get transfer() {
        return transfer
      },
      get cachedTokens() {
        return cached
      },
      // Prefill's own answer tells them.
      scores: undefined,
    })
  } catch (cause) {
    receiver.abort(toKvxError(cause))
    throw receiver.error ?? cause
  } finally {
    signal.removeEventListener('abort', abort)
    // Does nothing once the transfer has ended; else it ends it, so that nothing waits for pages.
    receiver.abort('The request ended before its cache arrived.')
    await arrived.catch(() => undefined)
    giveBack()
  }
}
