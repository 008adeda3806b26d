/** The decode leg: finds prefill, reserves pages, waits until the prompt's cache is in them, and goes on from there. */
import { neededPages, promptDigest, type DecodeManager } from '@kvx/core'
import { toKvxError } from '@kvx/contract'
import { decode, sampleOf, type Generation, type LlamaModel } from '@kvx/llama'
import type { Run } from '../answers/pieces.ts'
import type { Transferred } from '../answers/rendering.ts'
import type { Call } from './call.ts'
import type { CachePools } from './cache-pools.ts'
import type { Runs } from './compute.ts'
import { firstTokensIn } from './first-tokens.ts'
import { byAddress, returnPages } from './pages.ts'
import type { Strangers } from './strangers.ts'
import type { WorkerMetrics } from './metrics.ts'

export interface DecodeSide {
  readonly model: LlamaModel
  readonly manager: DecodeManager
  readonly pools: CachePools
  readonly metrics: WorkerMetrics
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
  { tokens, samples, maxTokens, sampling, signal, events }: Call,
  room: bigint,
  find: () => Promise<string>,
  use: (runs: Runs) => Promise<void>,
): Promise<void> {
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
  let giveBack: () => void = () => undefined

  /** The pages that hold the cache, and the first token of each answer. */
  async function arrival() {
    // Ends the wait for pages when prefill fails meanwhile.
    const over = new AbortController()
    receiver.done.catch((error: unknown) => {
      over.abort(error)
    })
    const counts = neededPages(model.cache, { tokens: tokens.length })
    const either = AbortSignal.any([signal, over.signal])
    const lease = await pools.allocate(counts, { signal: either, timeoutMs: queueMs })
    giveBack = once(() => {
      returnPages(lease, receiver.settled, events)
    })
    events('pages.leased', { pages: lease.count })
    try {
      await receiver.reserve(byAddress(model, lease.pages), { signal })
      events('room.reserved')
      const { aux, report } = await receiver.done
      const firstTokens = firstTokensIn(aux, samples, model.vocabularySize)
      transfer = { ...report, backend: manager.engine.backend }
      events('transfer.complete', { ...transfer })
      metrics.transferred(report.bytes)
      return { firstTokens, pages: lease.pages }
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
    // The pages go back when every answer has read them, or has ended without.
    let reading = samples
    const read = () => {
      if (--reading === 0) giveBack()
    }
    const runs = Array.from({ length: samples }, (_, k): Run => {
      let generation: Generation | undefined
      async function* answer(): AsyncGenerator<number, void> {
        const onLoaded = once(read)
        try {
          const { firstTokens, pages } = await arrived
          const firstToken = firstTokens[k] ?? -1
          const own = sampleOf(sampling, k)
          const request = { tokens, pages, firstToken, maxTokens, sampling: own, onLoaded, signal }
          generation = decode(model, request)
          yield* generation
        } finally {
          onLoaded()
        }
      }
      return {
        [Symbol.asyncIterator]: answer,
        get finishReason() {
          return generation?.finishReason
        },
        get endToken() {
          return generation?.endToken
        },
        get evaluatedTokens() {
          return generation?.evaluatedTokens ?? 0
        },
      }
    })
    await use({
      runs,
      get transfer() {
        return transfer
      },
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

/** Does it the first time. */
function once(what: () => void): () => void {
  let isDone = false
  return () => {
    if (!isDone) what()
    isDone = true
  }
}
