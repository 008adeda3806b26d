import { setTimeout as delay } from 'node:timers/promises'
import { silentLog, type Log } from '@kvx/contract'
import { KvxError } from '@kvx/contract'
import { checkRegister } from './arguments.ts'
import { bootstrapVersion, type BootstrapReply, type RankRecord } from './messages.ts'
import { roomKey, type Sample } from '../protocol/keys.ts'
import { batches, connect, Wait } from './session.ts'

/** For the first registration. */
const firstMs = 30_000

/** What one rank publishes, and where. */
export interface RegisterOptions {
  /** `tcp://host:port` */
  bootstrap: string
  /** The secret of the deployment. */
  token: string
  /** What other processes are told. */
  record: RankRecord
  /** How long the registration outlives its last renewal; it is renewed every third of it. Default 15,000. */
  leaseMs?: number
  /** For the first registration. Default 30,000. */
  timeoutMs?: number
  /** Ends the wait for the first registration. */
  signal?: AbortSignal
  /**
   * Another process has registered as the same rank, which the reason (`ERR_KVX_DRAINING`) names. Nothing is renewed any more.
   */
  onLost?: (reason: KvxError) => void
  /** Told of every attempt that fails. */
  log?: Log
}

/** A rank that is published until `withdraw`, or until its process ends and the lease runs out. */
export interface Registration {
  /** Withdraws the registration. Idempotent. */
  close(): Promise<void>
  /**
   * Decode learns from the service that the data-parallel rank of the record computes this request, until it is
   * withdrawn; also when the service restarts.
   */
  publish(sample: Sample): void
  /** The data-parallel rank of the record does not compute this request any more. */
  withdraw(sample: Sample): void
}

/**
 * Registers a rank and keeps it registered, also when the bootstrap service restarts. Resolves after
 * the first registration.
 *
 * @throws KvxError `ERR_KVX_BOOTSTRAP_UNREACHABLE`, `ERR_KVX_INVALID_OPTION`, `ERR_KVX_ABORTED`,
 *   `ERR_KVX_PROTOCOL` when the service refuses the record
 */
export async function registerRank(options: RegisterOptions): Promise<Registration> {
  checkRegister(options)
  const { bootstrap, record, leaseMs = 15_000, log = silentLog } = options
  const first = new Wait<undefined>(bootstrap, options.timeoutMs ?? firstMs, options.signal)
  let registered = false
  let closed = false
  let withdrawn: (() => void) | undefined
  const published = new Map<string, Sample>()

  const announce = () => {
    client.send({ v: bootstrapVersion, kind: registered ? 'renew' : 'register', record, leaseMs })
  }
  const tell = (kind: 'publish' | 'withdraw', samples: readonly Sample[]) => {
    for (const some of batches(samples))
      client.send({ v: bootstrapVersion, kind, record, samples: some })
  }
  const stop = () => {
    closed = true
    clearInterval(timer)
    client.close()
  }
  const refused = ({ reason, text }: Extract<BootstrapReply, { kind: 'refused' }>) => {
    log.warn({ bootstrap, reason, text }, 'the bootstrap service refused the registration')
    const where = { phase: 'bootstrap', peer: bootstrap } as const
    if (reason === 'replaced') {
      stop()
      options.onLost?.(new KvxError('ERR_KVX_DRAINING', text, where))
      return
    }
    const error = new KvxError(
      'ERR_KVX_PROTOCOL',
      `The bootstrap service at ${bootstrap} refused the registration: ${text}`,
      where,
    )
    if (reason === 'malformed') {
      first.reject(error)
    } else {
      // What stands in the way are older leases, which end by themselves.
      first.failedAttempt(error)
    }
  }

  const client = (() => {
    try {
      return connect({
        bootstrap,
        token: options.token,
        log,
        onUp: () => {
          announce()
          tell('publish', [...published.values()])
        },
        onDown: (reason) => {
          log.warn({ bootstrap, reason: reason.message }, 'the bootstrap service is not reachable')
          first.failedAttempt(reason)
        },
        onReply: (reply) => {
          if (reply.kind === 'registered') {
            registered = true
            first.resolve(undefined)
          } else if (reply.kind === 'deregistered') {
            withdrawn?.()
          } else if (reply.kind === 'refused') {
            refused(reply)
          }
        },
      })
    } catch (error) {
      first.end()
      throw error
    }
  })()
  const timer = setInterval(announce, leaseMs / 3)
  try {
    await first.promise
  } catch (error) {
    stop()
    throw error
  } finally {
    first.end()
  }
  return {
    async close() {
      if (closed) return
      closed = true
      clearInterval(timer)
      const answered = new Promise<void>((resolve) => {
        withdrawn = resolve
      })
      if (client.send({ v: bootstrapVersion, kind: 'deregister', record })) {
        await Promise.race([answered, delay(500, undefined, { ref: false })])
      }
      client.close()
    },
    publish(sample) {
      published.set(roomKey(sample.room, sample.index), sample)
      if (!closed) tell('publish', [sample])
    },
    withdraw(sample) {
      published.delete(roomKey(sample.room, sample.index))
      if (!closed) tell('withdraw', [sample])
    },
  }
}
