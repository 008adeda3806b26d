import { type Log } from '@kvx/contract'
import { KvxError } from '@kvx/contract'
import { longestMs } from '../deferred.ts'
import { rankCount } from '../share/index.ts'
import { checkWatch } from './arguments.ts'
import { bootstrapVersion, type BootstrapReply, type InstanceRecord } from './messages.ts'
import { roomKey, type Sample } from '../protocol/keys.ts'
import { batches, connect, unreachable } from './session.ts'

/** Which instance to watch, and whom to tell. */
export interface WatchOptions {
  /** `tcp://host:port` */
  bootstrap: string
  /** The secret of the deployment. */
  token: string
  /** Default: the instance that changed last. */
  instance?: string
  /**
   * All ranks of the instance are registered: called for every new revision, and again for the same one
   * after a failure.
   */
  onRead: (record: InstanceRecord) => void
  /**
   * `ERR_KVX_BOOTSTRAP_UNREACHABLE` for every attempt to connect that failed, every connection that ended
   * and every question that stayed unanswered; its cause is `ERR_KVX_UNAUTHORIZED` when the token is another.
   * `ERR_KVX_BOOTSTRAP_INCOMPLETE` while ranks are missing, `ERR_KVX_PROTOCOL` for a refusal. The watch goes
   * on after each of them.
   */
  onFailed: (error: KvxError) => void
  /** What was asked: the data-parallel rank of prefill that computes this request. */
  onPublished?: (sample: Sample, dp: number) => void
  /** Told while the service cannot be reached. */
  log: Log
  /** How long the service may let a question wait for news. Default 10,000. */
  waitMs?: number
  /** How long an answer may take besides. Default 5,000. */
  silentMs?: number
}

/** A question that stays open until `close`. */
export interface Watch {
  /** No callback is called any more. Idempotent. */
  close(): void
  /** Asks which data-parallel rank computes a request: `onPublished` tells it once, when it is published. */
  ask(sample: Sample): void
  /** The answer is not wanted any more. */
  unask(sample: Sample): void
}

/** Between two questions that were answered too early without news: grows, with jitter. */
const pauseMs = { least: 100, most: 2_000 }

/**
 * Follows the ranks of an instance until it is closed: over one connection, which is made again with
 * growing pauses whenever it ends, by questions that the service answers when there is news.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION` for an option that is unknown or does not fit, `ERR_KVX_BOOTSTRAP_UNREACHABLE`
 *   when there can be no further socket
 */
export function watchInstance(options: WatchOptions): Watch {
  checkWatch(options)
  const { bootstrap, instance, waitMs = 10_000, silentMs = 5_000 } = options
  let known: InstanceRecord | undefined
  let told = false
  let early = 0
  let askedAt = 0
  let held = false
  let timer: NodeJS.Timeout | undefined
  let closed = false
  const asked = new Map<string, Sample>()

  const ask = (mayWait: boolean) => {
    // A callback may have closed the watch.
    if (closed) return
    held = mayWait
    askedAt = performance.now()
    client.send({
      v: bootstrapVersion,
      kind: 'read',
      ...(instance === undefined ? {} : { instance }),
      ...(known === undefined
        ? {}
        : { since: { service: known.service, revision: known.revision } }),
      ...(mayWait ? { waitMs } : {}),
    })
    const patience = silentMs + (mayWait ? waitMs : 0)
    after(patience, () => {
      failed(unreachable(bootstrap, silent(bootstrap, patience)))
      ask(false)
    })
  }
  const askPublished = (samples: readonly Sample[]) => {
    const named = instance === undefined ? {} : { instance }
    for (const some of batches(samples))
      client.send({ v: bootstrapVersion, kind: 'ask', ...named, samples: some })
  }
  const after = (ms: number, then: () => void) => {
    clearTimeout(timer)
    timer = setTimeout(then, Math.min(ms, longestMs))
  }
  const failed = (error: KvxError) => {
    told = false
    options.onFailed(error)
  }

  const answered = (found: InstanceRecord | undefined) => {
    const news = found?.service !== known?.service || found?.revision !== known?.revision
    const tooEarly = held && !news && performance.now() - askedAt < waitMs / 2
    early = tooEarly ? early + 1 : 0
    known = found
    if (found?.complete !== true) {
      failed(incomplete(bootstrap, instance, found))
    } else if (news || !told) {
      told = true
      options.onRead(found)
    }
    askAgain()
  }
  /** At once, unless the service does not let questions wait, as one does that holds too many. */
  const askAgain = () => {
    if (early === 0) {
      ask(true)
    } else if (!closed) {
      const pause = Math.min(pauseMs.most, pauseMs.least * 2 ** (early - 1))
      after(pause * (0.5 + Math.random() / 2), () => {
        ask(true)
      })
    }
  }
  const onReply = (reply: BootstrapReply) => {
    if (reply.kind === 'published') {
      const [room, index, dp] = reply.found
      if (asked.delete(roomKey(room, index))) options.onPublished?.({ room, index }, dp)
    } else if (reply.kind === 'instance') {
      answered(reply.found)
    } else if (reply.kind === 'refused') {
      early += 1
      const text = `The bootstrap service at ${bootstrap} refused to answer: ${reply.text}`
      failed(new KvxError('ERR_KVX_PROTOCOL', text, { phase: 'bootstrap', peer: bootstrap }))
      askAgain()
    }
  }

  const client = connect({
    bootstrap,
    token: options.token,
    log: options.log,
    onUp: () => {
      // The first answer of a connection comes at once, so that the present state is known at once.
      ask(false)
      askPublished([...asked.values()])
    },
    onDown: (reason) => {
      clearTimeout(timer)
      failed(reason)
    },
    onReply,
  })
  return {
    close() {
      closed = true
      clearTimeout(timer)
      client.close()
    },
    ask(sample) {
      asked.set(roomKey(sample.room, sample.index), sample)
      askPublished([sample])
    },
    unask(sample) {
      if (!asked.delete(roomKey(sample.room, sample.index)) || closed) return
      const [samples = []] = batches([sample])
      client.send({ v: bootstrapVersion, kind: 'unask', samples })
    },
  }
}

function silent(bootstrap: string, ms: number): KvxError {
  return new KvxError(
    'ERR_KVX_PEER_LOST',
    `${bootstrap} has not answered for ${String(ms / 1_000)} s.`,
  )
}

function incomplete(
  bootstrap: string,
  name: string | undefined,
  found: InstanceRecord | undefined,
): KvxError {
  const instance = name ?? found?.instance
  const who = instance === undefined ? 'The prefill instance' : `The prefill instance '${instance}'`
  const have = found?.ranks.length ?? 0
  const first = found?.ranks[0]
  const ranks =
    first === undefined
      ? 'none of its ranks has'
      : `${have} of its ${rankCount(first.rank)} ranks have`
  return new KvxError(
    'ERR_KVX_BOOTSTRAP_INCOMPLETE',
    `${who} is not complete: ${ranks} registered at ${bootstrap}.`,
    { phase: 'bootstrap', peer: bootstrap },
  )
}
