import { silentLog } from '../backend/contract.ts'
import { KvxError } from '../backend/errors.ts'
import { type ControlClient } from '../control/index.ts'
import { bootstrapVersion, type BootstrapReply, type InstanceRecord } from './messages.ts'
import { connect, Wait } from './session.ts'
import { rankCount } from './table.ts'

export interface ReadOptions {
  /** `tcp://host:port` */
  bootstrap: string
  token: string
  /** Default: the instance that changed last. */
  instance?: string
  timeoutMs: number
  signal?: AbortSignal
}

/** Between two questions while ranks are missing. */
const againMs = 100

/**
 * Reads the ranks of an instance, waiting until all of them are registered.
 *
 * @throws KvxError `ERR_KVX_BOOTSTRAP_UNREACHABLE`, `ERR_KVX_BOOTSTRAP_INCOMPLETE`,
 *   `ERR_KVX_INVALID_OPTION`, `ERR_KVX_ABORTED`
 */
export async function readInstance(options: ReadOptions): Promise<InstanceRecord> {
  const { bootstrap, instance } = options
  const wait = new Wait<InstanceRecord>(bootstrap, options.timeoutMs, options.signal)
  let client: ControlClient | undefined
  let again: NodeJS.Timeout | undefined
  const ask = () => {
    client?.send({
      v: bootstrapVersion,
      kind: 'read',
      ...(instance === undefined ? {} : { instance }),
    })
  }
  const onReply = (reply: BootstrapReply) => {
    if (reply.kind === 'refused') {
      const message = `The bootstrap service at ${bootstrap} refused to answer: ${reply.text}`
      wait.reject(
        new KvxError('ERR_KVX_PROTOCOL', message, { phase: 'bootstrap', peer: bootstrap }),
      )
    } else if (reply.kind === 'instance' && reply.found?.complete === true) {
      wait.resolve(reply.found)
    } else if (reply.kind === 'instance') {
      wait.failedAttempt(incomplete(bootstrap, instance, reply.found))
      clearTimeout(again)
      again = setTimeout(ask, againMs)
    }
  }
  try {
    client = connect({
      bootstrap,
      token: options.token,
      log: silentLog,
      onUp: ask,
      onDown: wait.failedAttempt,
      onReply,
    })
    return await wait.promise
  } finally {
    wait.end()
    clearTimeout(again)
    client?.close()
  }
}

function incomplete(
  bootstrap: string,
  name: string | undefined,
  found: InstanceRecord | undefined,
): KvxError {
  const instance = name ?? found?.instance
  const who = instance === undefined ? 'The prefill instance' : `The prefill instance '${instance}'`
  const have = found?.ranks.length ?? 0
  const need = rankCount(found?.ranks[0]?.rank)
  const ranks = need === 0 ? 'none of its ranks has' : `${have} of its ${need} ranks have`
  return new KvxError(
    'ERR_KVX_BOOTSTRAP_INCOMPLETE',
    `${who} is not complete: ${ranks} registered at ${bootstrap}.`,
    { phase: 'bootstrap', peer: bootstrap },
  )
}
