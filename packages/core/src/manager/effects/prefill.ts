/** Where the protocol of the prefill side meets the world: its engine, and the connections of its control server. */
import { toKvxError, KvxError, type Link, type Log, type Transfer } from '@kvx/contract'
import type { Registration } from '../../bootstrap/index.ts'
import type { Connection } from '../../control/index.ts'
import type { PrefillEffect, PrefillEvent } from '../../protocol/index.ts'
import type { Engine } from '../engine.ts'
import { digestsOf } from './digests.ts'
import { stagingOf } from './staging.ts'
import { defect, heard, listen, within } from './events.ts'

/** Those that tell the host something; the manager handles them. */
export type SenderEffect = Extract<PrefillEffect, { do: `sender.${string}` }>

interface OpenLink {
  readonly link: Promise<Link>
  /** Aborts the attempt to connect. */
  readonly attempt: AbortController
}

/** A piece that the protocol has posted; the engine gets it in a later turn. */
interface Posted {
  transfer: Transfer | undefined
  cancelled: boolean
}

export class PrefillEffects {
  /** At the bootstrap service, from when this rank can be asked for anything. */
  registration: Pick<Registration, 'publish' | 'withdraw'> | undefined
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
  perform(effect: Exclude<PrefillEffect, SenderEffect>): void {
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

  #perform(effect: Exclude<PrefillEffect, SenderEffect>): void {
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
      case 'gather':
        this.#gather(effect).catch(defect(this.#log))
        return
      case 'cancel':
        this.#cancel(effect.piece)
        return
      case 'publish':
        this.registration?.publish(effect)
        return
      case 'withdraw':
        this.registration?.withdraw(effect)
        return
      case 'recycle':
        this.#recycle().catch(defect(this.#log))
        return
      case 'digest':
        this.#digest(effect).catch(defect(this.#log))
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
    const { peer, generation, address, regions, timeoutMs } = effect
    const key = linkKey(peer, generation)
    const attempt = new AbortController()
    const link = this.#engine.current.engine.connect(
      { generation, address, regions },
      { timeoutMs, signal: attempt.signal },
    )
    const opened: OpenLink = { link, attempt }
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
    const { piece, deadlineMs, after } = effect
    const posted: Posted = { transfer: undefined, cancelled: false }
    this.#posted.set(piece, posted)
    try {
      const open = this.#links.get(linkKey(effect.peer, effect.generation))
      if (!open)
        throw new KvxError('ERR_KVX_PEER_LOST', 'The link to decode was closed.', {
          phase: 'transfer',
        })
      const link = await open.link
      if (posted.cancelled) throw new KvxError('ERR_KVX_ABORTED', 'The write was cancelled.')
      const transfer = link.write(effect.plan, { deadlineMs, after })
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

  async #gather({ piece, plan, offset }: PrefillEffect & { do: 'gather' }): Promise<void> {
    const error = await stagingOf(this.#engine)
      .then((staging) => staging.gather(plan, offset))
      .then(() => undefined, transferError)
    this.#emit({ type: 'load.gathered', piece, error })
  }

  #cancel(piece: number): void {
    const posted = this.#posted.get(piece)
    if (!posted) return
    posted.cancelled = true
    posted.transfer?.cancel()
  }

  async #digest(effect: PrefillEffect & { do: 'digest' }): Promise<void> {
    const { sender, peer, epoch, pairing, prompt, source } = effect
    let event: PrefillEvent
    try {
      const digested = { pairing, side: 'source', prompt, pages: source } as const
      const digests = await digestsOf(this.#engine, digested)
      event = { type: 'digests', sender, peer, epoch, digests }
    } catch (cause) {
      const error = within(toKvxError(cause), 'complete')
      event = { type: 'digests.failed', sender, error }
    }
    this.#emit(event)
  }
}

function linkKey(peer: string, generation: string): string {
  return `${peer}/${generation}`
}

function transferError(cause: unknown): KvxError {
  return within(toKvxError(cause, 'ERR_KVX_TRANSFER_FAILED'), 'transfer')
}
