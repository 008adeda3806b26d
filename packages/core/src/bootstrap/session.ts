import * as v from 'valibot'
import { type Log } from '@kvx/contract'
import { isKvxError, KvxError } from '@kvx/contract'
import { ControlClient, type ControlClientOptions } from '../control/index.ts'
import { Deferred, longestMs } from '../deferred.ts'
import type { Sample } from '../protocol/keys.ts'
import { maxSamples } from '../protocol/messages.ts'
import { replySchema, type BootstrapReply } from './messages.ts'

/**
 * A connection to a bootstrap service that delivers only answers of the right form. `onDown` is told of
 * every attempt that failed and of every connection that ended, as `ERR_KVX_BOOTSTRAP_UNREACHABLE`.
 * @throws KvxError `ERR_KVX_INVALID_OPTION` for a malformed address or a token shorter than 16 bytes, `ERR_KVX_BOOTSTRAP_UNREACHABLE` when
 *   there can be no further socket
 */
export function connect(options: {
  bootstrap: string
  token: string
  onUp: () => void
  onDown: (reason: KvxError) => void
  onReply: (reply: BootstrapReply) => void
  log: Log
}): ControlClient {
  const connection: ControlClientOptions = {
    endpoint: options.bootstrap,
    token: options.token,
    log: options.log,
    onUp: options.onUp,
    onDown: (reason) => {
      options.onDown(unreachable(options.bootstrap, reason))
    },
    onMessage: (message) => {
      const parsed = v.safeParse(replySchema, message)
      if (parsed.success) options.onReply(parsed.output)
      else
        options.log.warn(
          { issues: v.summarize(parsed.issues) },
          'unknown answer of the bootstrap service',
        )
    },
  }
  try {
    return ControlClient.connect(connection)
  } catch (error) {
    if (!isKvxError(error) || error.code !== 'ERR_KVX_CONNECT_FAILED') throw error
    throw unreachable(options.bootstrap, error)
  }
}

/** Of a message each. */
export function batches(samples: readonly Sample[]): [bigint, number][][] {
  const all: [bigint, number][][] = []
  for (let first = 0; first < samples.length; first += maxSamples) {
    const some = samples.slice(first, first + maxSamples)
    all.push(some.map(({ room, index }): [bigint, number] => [room, index]))
  }
  return all
}

/**
 * A result that is waited for until a deadline. Then the last failed attempt is told. Another token is told
 * at once.
 */
export class Wait<T> extends Deferred<T> {
  readonly #bootstrap: string
  readonly #timer: NodeJS.Timeout
  readonly #signal: AbortSignal | undefined
  #last: KvxError | undefined

  constructor(bootstrap: string, timeoutMs: number, signal: AbortSignal | undefined) {
    super()
    this.#bootstrap = bootstrap
    this.#timer = setTimeout(
      () => {
        this.reject(this.#last ?? unreachable(bootstrap))
      },
      Math.min(timeoutMs, longestMs),
    )
    this.#signal = signal
    signal?.addEventListener('abort', this.#aborted, { once: true })
    if (signal?.aborted === true) this.#aborted()
  }

  readonly failedAttempt = (reason: KvxError): void => {
    this.#last = reason
    if (isKvxError(reason.cause) && reason.cause.code === 'ERR_KVX_UNAUTHORIZED')
      this.reject(reason)
  }

  end(): void {
    clearTimeout(this.#timer)
    this.#signal?.removeEventListener('abort', this.#aborted)
  }

  readonly #aborted = (): void => {
    this.reject(
      new KvxError(
        'ERR_KVX_ABORTED',
        `Waiting for the bootstrap service at ${this.#bootstrap} was aborted.`,
        {
          cause: this.#signal?.reason,
          phase: 'bootstrap',
        },
      ),
    )
  }
}

export function unreachable(bootstrap: string, cause?: KvxError): KvxError {
  return new KvxError(
    'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    `The bootstrap service at ${bootstrap} is not reachable: ${cause?.message ?? 'it did not answer in time.'} ` +
      'Either it is not running, or it has another address, or this process has another token.',
    { cause, phase: 'bootstrap', peer: bootstrap },
  )
}
