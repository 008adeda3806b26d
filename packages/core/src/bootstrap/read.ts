import { silentLog } from '@kvx/contract'
import { checkRead } from './arguments.ts'
import { type InstanceRecord } from './messages.ts'
import { Wait } from './session.ts'
import { watchInstance, type Watch } from './watch.ts'

/** How long to wait for the ranks of an instance. */
export interface ReadOptions {
  /** `tcp://host:port` */
  bootstrap: string
  /** The secret of the deployment. */
  token: string
  /** Default: the instance that changed last. */
  instance?: string
  /** Milliseconds until it rejects. */
  timeoutMs: number
  /** Ends the wait with `ERR_KVX_ABORTED`. */
  signal?: AbortSignal
}

/**
 * Reads the ranks of an instance, waiting until all of them are registered.
 *
 * @throws KvxError `ERR_KVX_BOOTSTRAP_UNREACHABLE`, `ERR_KVX_BOOTSTRAP_INCOMPLETE`,
 *   `ERR_KVX_PROTOCOL`, `ERR_KVX_INVALID_OPTION`, `ERR_KVX_ABORTED`
 */
export async function readInstance(options: ReadOptions): Promise<InstanceRecord> {
  checkRead(options)
  const { timeoutMs, signal, ...source } = options
  const wait = new Wait<InstanceRecord>(source.bootstrap, timeoutMs, signal)
  let watch: Watch | undefined
  try {
    watch = watchInstance({
      ...source,
      onRead: wait.resolve,
      onFailed: wait.failedAttempt,
      log: silentLog,
    })
    return await wait.promise
  } finally {
    wait.end()
    watch?.close()
  }
}
