import * as v from 'valibot'
import { type Log } from '../backend/contract.ts'
import { KvxError } from '../backend/errors.ts'
import { ControlClient } from '../control/index.ts'
import { Deferred } from '../deferred.ts'
import { replySchema, type BootstrapReply } from './messages.ts'

/** A connection to a bootstrap service that delivers only answers of the right form. */
export function connect(options: {
  bootstrap: string
  token: string
  onUp: () => void
  onDown: (reason: KvxError) => void
  onReply: (reply: BootstrapReply) => void
  log: Log
}): ControlClient {
  return ControlClient.connect({
    endpoint: options.bootstrap,
    token: options.token,
    log: options.log,
    onUp: options.onUp,
    onDown: options.onDown,
    onMessage: (message) => {
      const parsed = v.safeParse(replySchema, message)
      if (parsed.success) options.onReply(parsed.output)
      else
        options.log.warn(
          { issues: v.summarize(parsed.issues) },
          'unknown answer of the bootstrap service',
        )
    },
  })
}

/**
 * A result that is waited for until a deadline. Then the last failed attempt decides what is told: what the
 * service answered, or that it is not reachable. Another token is told at once.
 */
export class Wait<T> extends Deferred<T> {
  readonly #bootstrap: string
  readonly #timer: NodeJS.Timeout
  readonly #signal: AbortSignal | undefined
  #last: KvxError | undefined

  constructor(bootstrap: string, timeoutMs: number, signal: AbortSignal | undefined) {
    super()
    this.#bootstrap = bootstrap
    this.#timer = setTimeout(() => {
      const last = this.#last
      const answered = last !== undefined && last.code !== 'ERR_KVX_PEER_LOST'
      this.reject(answered ? last : unreachable(bootstrap, last))
    }, timeoutMs)
    this.#signal = signal
    signal?.addEventListener('abort', this.#aborted, { once: true })
    if (signal?.aborted === true) this.#aborted()
  }

  readonly failedAttempt = (reason: KvxError): void => {
    this.#last = reason
    if (reason.code === 'ERR_KVX_UNAUTHORIZED') this.reject(unreachable(this.#bootstrap, reason))
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

function unreachable(bootstrap: string, cause: KvxError | undefined): KvxError {
  return new KvxError(
    'ERR_KVX_BOOTSTRAP_UNREACHABLE',
    `The bootstrap service at ${bootstrap} is not reachable: ${cause?.message ?? 'it did not answer in time.'} ` +
      'Either it is not running, or it has another address, or this process has another token.',
    { cause, phase: 'bootstrap', peer: bootstrap },
  )
}
