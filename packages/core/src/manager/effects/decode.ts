/** Where the protocol of the decode side meets the world: its engine, the bootstrap, and connections to prefill ranks. */
import { isKvxError, KvxError, toKvxError, type Log } from '@kvx/contract'
import { watchInstance, type Watch } from '../../bootstrap/index.ts'
import { ControlClient } from '../../control/index.ts'
import type { DecodeEffect, DecodeEvent } from '../../protocol/index.ts'
import type { Engine } from '../engine.ts'
import { digestsOf, firstDifference } from './digests.ts'
import { defect, heard, listen, within } from './events.ts'
import { stagingOf } from './staging.ts'

/** Those that tell the host something; the manager handles them. */
export type ReceiverEffect = Extract<DecodeEffect, { do: `receiver.${string}` }>

/** Between attempts to open a socket; they fail while the process has no file handle left. */
const pause = { least: 100, most: 2_000 }

/** Calls `again` after a pause, with the one that follows if it must wait once more. */
function later(ms: number, again: (nextMs: number) => void): { close(): void } {
  const timer = setTimeout(again, ms, Math.min(2 * ms, pause.most))
  return {
    close: () => {
      clearTimeout(timer)
    },
  }
}

export class DecodeEffects {
  readonly #token: string
  readonly #maxUnsentBytes: number
  readonly #log: Log
  readonly #emit: (event: DecodeEvent) => void
  readonly #engine: Engine
  readonly #clients = new Map<string, Pick<ControlClient, 'send' | 'close'>>()
  readonly #watches = new Map<string, Pick<Watch, 'ask' | 'unask' | 'close'>>()
  readonly #closed = new AbortController()

  constructor(options: {
    token: string
    maxUnsentBytes: number
    engine: Engine
    log: Log
    emit: (event: DecodeEvent) => void
  }) {
    this.#token = options.token
    this.#maxUnsentBytes = options.maxUnsentBytes
    this.#engine = options.engine
    this.#log = options.log
    this.#emit = options.emit
    listen(options.engine, options.emit)
  }

  /** Never throws, as on the prefill side. */
  perform(effect: Exclude<DecodeEffect, ReceiverEffect>): void {
    try {
      this.#perform(effect)
    } catch (cause) {
      this.#log.error({ effect: effect.do, error: cause }, 'an effect of the protocol failed')
      if (effect.do !== 'send' || !('ep' in effect.message)) return
      const { endpoint, message } = effect
      const error = within(toKvxError(cause), 'reserve', endpoint)
      if (message.ep !== undefined)
        this.#emit({ type: 'unsent', endpoint, epoch: message.ep, error })
    }
  }

  #perform(effect: Exclude<DecodeEffect, ReceiverEffect>): void {
    switch (effect.do) {
      case 'watchSource':
        this.#watchSource(effect.from)
        return
      case 'unwatchSource':
        this.#watches.get(effect.from)?.close()
        this.#watches.delete(effect.from)
        return
      case 'askPublished':
        this.#watches.get(effect.from)?.ask(effect)
        return
      case 'unaskPublished':
        this.#watches.get(effect.from)?.unask(effect)
        return
      case 'connect':
        this.#connect(effect.endpoint)
        return
      case 'disconnect':
        this.#clients.get(effect.endpoint)?.close()
        this.#clients.delete(effect.endpoint)
        return
      case 'send':
        this.#clients.get(effect.endpoint)?.send(effect.message)
        return
      case 'verify':
        this.#verify(effect).catch(defect(this.#log))
        return
      case 'scatter':
        this.#scatter(effect).catch(defect(this.#log))
        return
      case 'fence':
        this.#fence(effect.writer).catch(defect(this.#log))
        return
      case 'recycle':
        this.#recycle().catch(defect(this.#log))
        return
    }
  }

  close(): Promise<void> {
    this.#closed.abort()
    for (const watch of this.#watches.values()) watch.close()
    this.#watches.clear()
    for (const client of this.#clients.values()) client.close()
    this.#clients.clear()
    return this.#engine.close()
  }

  #watchSource(from: string, pauseMs = pause.least): void {
    const failed = (cause: unknown) => {
      const error = toKvxError(cause, 'ERR_KVX_BOOTSTRAP_UNREACHABLE', {
        phase: 'bootstrap',
        peer: from,
      })
      // That the token is another is worth more than that nobody is reached: trying again is of no use.
      const refused = isKvxError(error.cause) && error.cause.code === 'ERR_KVX_UNAUTHORIZED'
      const reason = refused
        ? new KvxError('ERR_KVX_UNAUTHORIZED', error.message, {
            cause,
            phase: 'bootstrap',
            peer: from,
          })
        : error
      this.#emit({ type: 'source.failed', from, error: reason })
    }
    try {
      const watch = watchInstance({
        bootstrap: from,
        token: this.#token,
        onRead: ({ ranks }) => {
          this.#emit({ type: 'source.read', from, ranks })
        },
        onPublished: (sample, dp) => {
          this.#emit({ type: 'source.published', from, dp, ...sample })
        },
        onFailed: failed,
        log: this.#log,
      })
      this.#watches.set(from, watch)
    } catch (cause) {
      const again = later(pauseMs, (next) => {
        this.#watchSource(from, next)
      })
      // Nothing is asked before the ranks are read.
      const nobody = () => undefined
      this.#watches.set(from, { ask: nobody, unask: nobody, ...again })
      failed(cause)
    }
  }

  #connect(endpoint: string, pauseMs = pause.least): void {
    this.#clients.get(endpoint)?.close()
    try {
      this.#clients.set(endpoint, this.#openClient(endpoint))
    } catch (cause) {
      const again = later(pauseMs, (next) => {
        this.#connect(endpoint, next)
      })
      this.#clients.set(endpoint, { send: () => false, ...again })
      const error = within(toKvxError(cause, 'ERR_KVX_CONNECT_FAILED'), 'hello', endpoint)
      this.#log.warn({ endpoint, error: error.message }, 'a prefill rank could not be connected')
      this.#emit({ type: 'link.down', endpoint, error })
    }
  }

  #openClient(endpoint: string): ControlClient {
    return ControlClient.connect({
      endpoint,
      token: this.#token,
      maxUnsentBytes: this.#maxUnsentBytes,
      log: this.#log,
      onMessage: (frame) => {
        this.#emit({ endpoint, ...heard(frame, this.#log, endpoint) })
      },
      onMalformed: (error) => {
        this.#emit({ type: 'unreadable', endpoint, envelope: {}, error })
      },
      onUp: () => {
        this.#emit({ type: 'link.up', endpoint })
      },
      onDown: (reason) => {
        // Only a refusal is final; a lost connection is made again.
        const final = reason.code === 'ERR_KVX_UNAUTHORIZED'
        this.#emit({ type: 'link.down', endpoint, error: final ? reason : undefined })
      },
    })
  }

  async #verify(effect: DecodeEffect & { do: 'verify' }): Promise<void> {
    const { request, epoch } = effect
    const error = await this.#objection(effect).catch((cause: unknown) =>
      within(toKvxError(cause), 'complete'),
    )
    this.#emit({ type: 'verified', request, epoch, error })
  }

  /** What is wrong with what has landed. */
  async #objection(effect: DecodeEffect & { do: 'verify' }): Promise<KvxError | undefined> {
    const { pairing, prompt, destination, digests } = effect
    const digested = { pairing, side: 'destination', prompt, pages: destination } as const
    const wrong = firstDifference(pairing, digests, await digestsOf(this.#engine, digested))
    if (wrong === undefined) return undefined
    return new KvxError(
      'ERR_KVX_CHECKSUM_MISMATCH',
      `Layer ${String(wrong.layer)} of '${wrong.component}' arrived damaged. Try again; if it happens again, suspect memory or network.`,
      { phase: 'complete' },
    )
  }

  async #scatter(effect: DecodeEffect & { do: 'scatter' }): Promise<void> {
    const { request, epoch, load, plan, offset } = effect
    const error = await stagingOf(this.#engine)
      .then((staging) => staging.scatter(plan, offset))
      .then(
        () => undefined,
        (cause: unknown) => within(toKvxError(cause, 'ERR_KVX_TRANSFER_FAILED'), 'transfer'),
      )
    this.#emit({ type: 'scattered', request, epoch, load, error })
  }

  async #fence(writer: string): Promise<void> {
    try {
      await this.#engine.current.engine.fence(writer, { signal: this.#closed.signal })
      this.#emit({ type: 'fenced', writer })
    } catch (error) {
      if (this.#closed.signal.aborted) return
      this.#log.error(
        { writer, error },
        'a writer could not be fenced; its pages stay in quarantine, and it is tried again',
      )
      this.#emit({ type: 'fence.failed', writer })
    }
  }

  async #recycle(): Promise<void> {
    try {
      this.#log.warn({}, 'replacing the transfer engine to get pages out of quarantine')
      const { address } = await this.#engine.replace()
      this.#emit({ type: 'engine.recycled', engine: address })
    } catch (cause) {
      this.#emit({
        type: 'engine.failed',
        error: toKvxError(cause, 'ERR_KVX_BACKEND_UNAVAILABLE', { phase: 'open' }),
      })
    }
  }
}
