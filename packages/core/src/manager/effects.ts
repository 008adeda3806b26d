/** Where the protocol meets the world: engines, sockets and the bootstrap. Nothing else of the manager does I/O. */
import {
  isKvxError,
  toKvxError,
  KvxError,
  type Link,
  type Log,
  type Phase,
  type Transfer,
} from '@kvx/contract'
import { watchInstance, type Watch } from '../bootstrap/index.ts'
import { ControlClient, type Connection } from '../control/index.ts'
import { checksumJob, type Planner } from '../plan/index.ts'
import {
  parseMessage,
  readEnvelope,
  type DecodeEffect,
  type DecodeEvent,
  type Message,
  type PeerGone,
  type PrefillEffect,
  type PrefillEvent,
  type Unreadable,
} from '../protocol/index.ts'
import type { Engine } from './engine.ts'

/** Effects that tell the host something; the managers handle them. */
export type PrefillNews = Extract<PrefillEffect, { do: `sender.${string}` }>
export type DecodeNews = Extract<DecodeEffect, { do: `receiver.${string}` }>

interface OpenLink {
  readonly link: Promise<Link>
  readonly planner: Planner
  /** Aborts the attempt to connect. */
  readonly attempt: AbortController
}

/** A piece that the protocol has posted; the engine gets it in a later turn. */
interface Posted {
  transfer: Transfer | undefined
  cancelled: boolean
}

export class PrefillEffects {
  readonly #log: Log
  readonly #emit: (event: PrefillEvent) => void
  readonly #engine: Engine
  readonly #links = new Map<string, OpenLink>()
  readonly #posted = new Map<number, Posted>()
  readonly #connections = new Map<string, Connection>()

  constructor(options: { engine: Engine; log: Log; emit: (event: PrefillEvent) => void }) {
    this.#engine = options.engine
    this.#log = options.log
    this.#emit = options.emit
    listen(options.engine, options.emit)
  }

  /** Handlers for the control server. */
  onMessage(connection: Connection, frame: unknown): void {
    this.#connections.set(connection.id, connection)
    this.#emit({ connection: connection.id, ...heard(frame, this.#log, connection.id) })
  }

  onMalformed(connection: Connection, error: KvxError): void {
    this.#connections.set(connection.id, connection)
    this.#emit({ type: 'unreadable', connection: connection.id, envelope: {}, error })
  }

  onClose(connection: Connection): void {
    this.#connections.delete(connection.id)
    this.#emit({ type: 'disconnected', connection: connection.id })
  }

  /** Never throws: what fails with one effect must not cost the others of its step. */
  perform(effect: Exclude<PrefillEffect, PrefillNews>): void {
    try {
      this.#perform(effect)
    } catch (cause) {
      this.#log.error({ effect: effect.do, error: cause }, 'an effect of the protocol failed')
      if (effect.do !== 'openLink') return
      const { peer, generation } = effect
      const error = toKvxError(cause, 'ERR_KVX_CONNECT_FAILED', { phase: 'hello' })
      this.#emit({ type: 'link.failed', peer, generation, error })
    }
  }

  #perform(effect: Exclude<PrefillEffect, PrefillNews>): void {
    switch (effect.do) {
      case 'send':
        if (effect.message.k === 'welcome') {
          this.#log.debug({ connection: effect.connection }, 'peer.welcomed')
        }
        this.#connections.get(effect.connection)?.send(effect.message)
        return
      case 'openLink':
        this.#openLink(effect)
        return
      case 'closeLink':
        this.#closeLink(effect.peer, effect.generation)
        return
      case 'post':
        this.#post(effect).catch(defect(this.#log))
        return
      case 'cancel':
        this.#cancel(effect.piece)
        return
      case 'recycle':
        this.#recycle().catch(defect(this.#log))
        return
      case 'checksum':
        this.#checksum(effect).catch(defect(this.#log))
        return
    }
  }

  /** As `Engine.close`. */
  close(): Promise<void> {
    this.#links.clear()
    return this.#engine.close()
  }

  async #recycle(): Promise<void> {
    try {
      this.#log.warn({}, 'replacing the transfer engine: writes to a silent peer do not end')
      const opening = [...this.#links.values()].map(({ link }) => link)
      this.#links.clear()
      // The pages that a call which is stuck writes to are never called drained, so that service can go on.
      const { address } = await this.#engine.replace({ evenIfStuck: true })
      const { generation } = address
      // What the old engine says of its links must not be taken for news of the next one's.
      await Promise.allSettled(opening)
      this.#emit({ type: 'engine.recycled', generation })
    } catch (cause) {
      const error = toKvxError(cause, 'ERR_KVX_BACKEND_UNAVAILABLE', { phase: 'open' })
      this.#emit({ type: 'engine.failed', error })
    }
  }

  #openLink(effect: PrefillEffect & { do: 'openLink' }): void {
    const { peer, generation, address, regions, timeoutMs, planner } = effect
    const key = linkKey(peer, generation)
    const attempt = new AbortController()
    const link = this.#engine.current.engine.connect(
      { generation, address, regions },
      { timeoutMs, signal: attempt.signal },
    )
    const opened: OpenLink = { link, planner, attempt }
    this.#links.set(key, opened)
    link.then(
      () => {
        this.#emit({ type: 'link.open', peer, generation })
      },
      (cause: unknown) => {
        if (this.#links.get(key) === opened) this.#links.delete(key)
        const error = toKvxError(cause, 'ERR_KVX_CONNECT_FAILED', { phase: 'hello' })
        this.#emit({ type: 'link.failed', peer, generation, error })
      },
    )
  }

  /** An attempt to connect that has not ended is aborted: to an engine that is gone it could last as long as its deadline. */
  #closeLink(peer: string, generation: string): void {
    const opened = this.#links.get(linkKey(peer, generation))
    this.#links.delete(linkKey(peer, generation))
    opened?.attempt.abort(new Error('the link is not needed any more'))
    opened?.link
      .then((link) => link.close())
      .catch((error: unknown) => {
        this.#log.debug({ peer, error }, 'a link could not be closed')
      })
  }

  async #post(effect: PrefillEffect & { do: 'post' }): Promise<void> {
    const { piece } = effect
    const posted: Posted = { transfer: undefined, cancelled: false }
    this.#posted.set(piece, posted)
    try {
      const open = this.#links.get(linkKey(effect.peer, effect.generation))
      if (!open)
        throw new KvxError('ERR_KVX_PEER_LOST', 'The link to decode was closed.', {
          phase: 'transfer',
        })
      const plan = open.planner.plan(effect.parts)
      const link = await open.link
      if (posted.cancelled) throw new KvxError('ERR_KVX_ABORTED', 'The write was cancelled.')
      const transfer = link.write(plan, { deadlineMs: effect.deadlineMs })
      posted.transfer = transfer
      // Not awaited: it may never end, and the protocol has a deadline of its own.
      void transfer.done.then(
        () => {
          this.#emit({ type: 'piece.done', piece })
        },
        (cause: unknown) => {
          this.#emit({ type: 'piece.failed', piece, error: transferError(cause) })
        },
      )
      await transfer.settled
    } catch (cause) {
      this.#emit({ type: 'piece.failed', piece, error: transferError(cause) })
    }
    this.#posted.delete(piece)
    this.#emit({ type: 'piece.settled', piece })
  }

  #cancel(piece: number): void {
    const posted = this.#posted.get(piece)
    if (!posted) return
    posted.cancelled = true
    posted.transfer?.cancel()
  }

  async #checksum(effect: PrefillEffect & { do: 'checksum' }): Promise<void> {
    const { sender, peer, epoch, planner, pages } = effect
    let event: PrefillEvent
    try {
      const job = checksumJob({ planner, side: 'source', component: 'kv', pages })
      const checksums = await this.#engine.current.engine.checksum(job)
      event = { type: 'checksums', sender, peer, epoch, checksums }
    } catch (cause) {
      const error = within(toKvxError(cause), 'complete')
      event = { type: 'checksums.failed', sender, error }
    }
    this.#emit(event)
  }
}

function listen(engine: Engine, emit: (event: PeerGone) => void): void {
  engine.onPeerGone((generation, reason) => {
    emit({ type: 'peer.gone', generation, reason })
  })
}

/** The last resort: a reducer that throws must not end the process. */
function defect(log: Log): (error: unknown) => void {
  return (error) => {
    log.error({ error }, 'an event of the protocol could not be handled')
  }
}

function linkKey(peer: string, generation: string): string {
  return `${peer}/${generation}`
}

function transferError(cause: unknown): KvxError {
  return within(toKvxError(cause, 'ERR_KVX_TRANSFER_FAILED'), 'transfer')
}

/** An error that does not say where it arose, with that. */
function within(error: KvxError, phase: Phase, peer = error.peer): KvxError {
  if (error.phase !== undefined) return error
  const { code, message, rank } = error
  return new KvxError(code, message, { cause: error, phase, peer, rank })
}

/** A frame as an event: the message that it is, or why it is none. */
function heard(
  frame: unknown,
  log: Log,
  from: string,
): { type: 'message'; message: Message } | ({ type: 'unreadable' } & Unreadable) {
  try {
    return { type: 'message', message: parseMessage(frame) }
  } catch (cause) {
    const error = toKvxError(cause, 'ERR_KVX_PROTOCOL')
    log.warn({ from, error: error.message }, 'a message was not understood')
    return { type: 'unreadable', envelope: readEnvelope(frame), error }
  }
}

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
  readonly #watches = new Map<string, Watch>()
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
  perform(effect: Exclude<DecodeEffect, DecodeNews>): void {
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

  #perform(effect: Exclude<DecodeEffect, DecodeNews>): void {
    switch (effect.do) {
      case 'watchSource':
        this.#watchSource(effect.from)
        return
      case 'unwatchSource':
        this.#watches.get(effect.from)?.close()
        this.#watches.delete(effect.from)
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
        onFailed: failed,
        log: this.#log,
      })
      this.#watches.set(from, watch)
    } catch (cause) {
      const again = later(pauseMs, (next) => {
        this.#watchSource(from, next)
      })
      this.#watches.set(from, again)
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

  /** What is wrong with the pages that have landed. */
  async #objection({
    pages,
    planner,
    checksums: sent,
  }: DecodeEffect & { do: 'verify' }): Promise<KvxError | undefined> {
    const job = checksumJob({ planner, side: 'destination', component: 'kv', pages })
    const landed = await this.#engine.current.engine.checksum(job)
    // They travel as signed numbers.
    const wrong = landed.findIndex((sum, i) => (sum | 0) !== sent[i])
    if (wrong < 0) return undefined
    return new KvxError(
      'ERR_KVX_CHECKSUM_MISMATCH',
      `Page ${String(wrong)} of the prompt arrived damaged (page ${String(pages[wrong])} of the pool). Try again; if it happens again, suspect memory or network.`,
      { phase: 'complete' },
    )
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
