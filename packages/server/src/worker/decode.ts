/** The decode leg: finds prefill, reserves pages, waits until the prompt's cache is in them, and goes on from there. */
import { neededPages, promptDigest, type DecodeManager } from '@kvx/core'
import { KvxError, toKvxError } from '@kvx/contract'
import { decode, type Generation, type LlamaModel } from '@kvx/llama'
import type { Run, Transferred } from './answer.ts'
import type { Call } from './call.ts'
import type { CacheLease, CachePools } from './cache-pools.ts'
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
 * Resolves when prefill has answered: then it is time to tell the client that its request is taken.
 * @param find the bootstrap service of the prefill instance
 * @throws KvxError as `Strangers.reach`; while iterating, with the first cause
 */
export async function receivePrompt(
  { model, manager, pools, metrics, queueMs, strangers }: DecodeSide,
  { tokens, maxTokens, sampling, signal, events }: Call,
  room: bigint,
  find: () => Promise<string>,
): Promise<Run> {
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
  let generation: Generation | undefined
  let transfer: Transferred | undefined

  async function arrival(pages: CacheLease['pages']): Promise<number> {
    try {
      await receiver.reserve(byAddress(model, pages), { signal })
      events('room.reserved')
      const { aux, report } = await receiver.done
      if (aux.firstToken === undefined) {
        throw new KvxError('ERR_KVX_PROTOCOL', 'Prefill sent the cache without a first token.')
      }
      // The model's library would end this process.
      if (aux.firstToken >= model.vocabularySize) {
        throw new KvxError(
          'ERR_KVX_PROTOCOL',
          `Prefill sent the first token ${String(aux.firstToken)}; this model knows 0 to ${String(model.vocabularySize - 1)}.`,
        )
      }
      transfer = { ...report, backend: manager.engine.backend }
      events('transfer.complete', { ...transfer })
      metrics.transferred(report.bytes)
      return aux.firstToken
    } catch (cause) {
      const error = receiver.error ?? toKvxError(cause)
      metrics.transferFailed(error)
      throw error
    }
  }

  async function* answer(): AsyncGenerator<number, void> {
    const abort = () => {
      receiver.abort('The client closed its connection.')
    }
    signal.addEventListener('abort', abort, { once: true })
    // Ends the wait for pages when prefill fails meanwhile.
    const over = new AbortController()
    receiver.done.catch((error: unknown) => {
      over.abort(error)
    })
    const either = AbortSignal.any([signal, over.signal])
    try {
      if (signal.aborted) abort()
      const counts = neededPages(model.cache, { tokens: tokens.length })
      const lease = await pools.allocate(counts, { signal: either, timeoutMs: queueMs })
      events('pages.leased', { pages: lease.count })
      let held = true
      const giveBack = () => {
        if (held) returnPages(lease, receiver.settled, events)
        held = false
      }
      try {
        const firstToken = await arrival(lease.pages)
        generation = decode(model, {
          tokens,
          pages: lease.pages,
          firstToken,
          maxTokens,
          sampling,
          onLoaded: giveBack,
          signal,
        })
        yield* generation
      } finally {
        giveBack()
      }
    } catch (cause) {
      receiver.abort(toKvxError(cause))
      throw receiver.error ?? cause
    } finally {
      signal.removeEventListener('abort', abort)
      // Does nothing once the transfer has ended; else it ends it, so that nothing waits for pages.
      receiver.abort('The request ended before its cache arrived.')
    }
  }

  return {
    [Symbol.asyncIterator]: answer,
    get finishReason() {
      return generation?.finishReason
    },
    get evaluatedTokens() {
      return generation?.evaluatedTokens ?? 0
    },
    get transfer() {
      return transfer
    },
  }
}
