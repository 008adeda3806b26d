import { setTimeout as delay } from 'node:timers/promises'
import { KvxError, toKvxError, type DeviceWork, type Log } from '@kvx/contract'
import type { Registration } from '../bootstrap/index.ts'
import { type ControlServer } from '../control/index.ts'
import {
  createPrefill,
  isFailureUnheard,
  roomKey,
  sendObjection,
  settings,
  stepPrefill,
  type Draining,
  type Itself,
  type PrefillEffect,
  type PrefillEvent,
  type PrefillState,
} from '../protocol/index.ts'
import { checkLeg, takeChunk, namedPages, takeDrain, takeLast, takeWait } from './arguments.ts'
import { checkDpRank, checkLive, checkOpen, checkSize, until } from './check.ts'
import { Deferred, orAborted } from '../deferred.ts'
import { PrefillEffects, type SenderEffect } from './effects/prefill.ts'
import type { Engine } from './engine.ts'
import { Loop } from './loop.ts'
import {
  KVPoll,
  type Aux,
  type Chunk,
  type PrefillManager as PrefillManagerType,
  type KVSender,
  type PageListsByComponent,
  type PeerState,
  type Reserved,
  type SendRequest,
  type TransferSummary,
  type WaitOptions,
} from './types.ts'

/** The prefill side of a host: senders over one engine and one control server. */
export class PrefillManager implements PrefillManagerType {
  readonly role = 'prefill'
  readonly incarnation: string
  readonly engine: { readonly backend: string; readonly version: string }
  readonly state: PrefillState
  readonly #engine: Engine
  readonly #effects: PrefillEffects
  readonly #loop: Loop<PrefillEvent, PrefillEffect>
  readonly #senders = new Map<number, Sender>()
  #server: { control: ControlServer; registration: Registration } | undefined
  #nextSender = 1
  #draining: Draining | undefined
  #closing: Promise<void> | undefined

  constructor(options: { self: Parameters<typeof createPrefill>[0]; engine: Engine; log: Log }) {
    const { self, engine } = options
    this.incarnation = self.incarnation
    this.#engine = engine
    this.engine = { backend: self.backend, version: self.version }
    this.state = createPrefill(self, engine.current.address.generation)
    this.#loop = new Loop<PrefillEvent, PrefillEffect>(
      (event, now) => stepPrefill(this.state, event, now),
      (effect) => {
        this.#perform(effect)
      },
      { type: 'tick' },
    )
    this.#effects = new PrefillEffects({
      ...options,
      emit: (event) => {
        this.#loop.dispatch(event)
      },
    })
  }

  /** Handlers of the control server that this manager is reached by. */
  get handlers(): Pick<PrefillEffects, 'onMessage' | 'onMalformed' | 'onClose'> {
    return this.#effects
  }

  peers(): PeerState[] {
    return Array.from(this.state.peers.values(), ({ instance, rank, link, transfers }) => ({
      ...{ instance, rank, requests: transfers.size },
      state: link === 'open' ? 'connected' : link === 'lost' ? 'lost' : 'connecting',
    }))
  }

  serve(control: ControlServer, registration: Registration): void {
    this.#server = { control, registration }
    this.#effects.registration = registration
  }

  /** Another process is registered as this rank: decode goes there. */
  replacedBy(cause: KvxError): void {
    this.#draining = { replaced: cause }
    this.#loop.dispatch({ type: 'host.drain', replaced: cause })
  }

  send(room: bigint, request: SendRequest): KVSender {
    checkLeg('send', { room, request })
    checkSize(request, this.state.self)
    checkDpRank(this.state.self.rank, room, request.dpRank)
    const index = request.index ?? 0
    checkOpen(this.#draining, this.#closing !== undefined)
    const key = roomKey(room, index)
    const objection = sendObjection(this.state, key)
    if (objection) throw objection
    const deadlines = settings(this.state.self.deadlines, request.deadlines, 'deadline', {
      role: this.role,
      isRequest: true,
    })
    const id = this.#nextSender++
    const sender = new Sender({ room, index }, this.state.self, this.#engine, (event) => {
      this.#loop.dispatch({ ...event, sender: id })
    })
    this.#senders.set(id, sender)
    this.#loop.dispatch({
      type: 'host.send',
      sender: id,
      key,
      tokens: request.tokens,
      digest: request.digest,
      published: request.dpRank === 'published' ? { room, index } : undefined,
      deadlines,
    })
    return sender
  }

  async drain(options: { deadlineMs?: number } = {}): Promise<void> {
    const { deadlineMs = this.state.self.deadlines.progress } = takeDrain(options)
    this.#draining ??= {}
    this.#loop.dispatch({ type: 'host.drain', ...this.#draining })
    await until(Promise.all([...this.#senders.values()].map(({ settled }) => settled)), deadlineMs)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    await this.#server?.registration.close()
    const senders = [...this.#senders.values()]
    const closed = new KvxError('ERR_KVX_CLOSED', 'The prefill manager was closed.')
    for (const sender of senders) sender.abort(closed)
    await until(
      Promise.all(senders.map((sender) => sender.settled)),
      this.state.self.deadlines.drain,
    )
    await this.#heard()
    try {
      await this.#effects.close()
    } finally {
      this.#loop.close()
      await this.#server?.control.close()
    }
  }

  /** Decode is to learn of failures from their first cause, not from the silence of this side. */
  async #heard(): Promise<void> {
    const end = performance.now() + this.state.self.deadlines.drain
    while (isFailureUnheard(this.state) && performance.now() < end) await delay(10)
  }

  #perform(effect: PrefillEffect): void {
    if (!isForHost(effect)) {
      this.#effects.perform(effect)
      return
    }
    this.#senders.get(effect.sender)?.hear(effect)
    if (effect.do === 'sender.settled') this.#senders.delete(effect.sender)
  }
}

function isForHost(effect: PrefillEffect): effect is SenderEffect {
  return effect.do.startsWith('sender.')
}

type HostEvent = Extract<PrefillEvent, { type: `host.${string}` }>
type SenderEvent = HostEvent extends infer E
  ? E extends { sender: number }
    ? Omit<E, 'sender'>
    : never
  : never

class Sender implements KVSender {
  readonly room: bigint
  readonly index: number
  readonly settled: Promise<void>
  error: KvxError | undefined
  readonly #emit: (event: SenderEvent) => void
  readonly #cache: Itself
  readonly #engine: Engine
  readonly #reserved = new Deferred<Reserved>()
  readonly #finished = new Deferred<TransferSummary>()
  readonly #settled = new Deferred<void>()
  readonly #writes = new Map<number, Deferred<void>>()
  #nextWrite = 1
  /** Why the call that is being made was wrong. */
  readonly #rejected: KvxError[] = []
  #poll: KVPoll = KVPoll.Bootstrapping

  constructor(
    { room, index }: { room: bigint; index: number },
    cache: Itself,
    engine: Engine,
    emit: (event: SenderEvent) => void,
  ) {
    this.room = room
    this.index = index
    this.#cache = cache
    this.#engine = engine
    this.settled = this.#settled.promise
    this.#emit = emit
  }

  async reserved(options: WaitOptions = {}): Promise<Reserved> {
    const { signal } = takeWait(options)
    return orAborted(this.#reserved.promise, signal)
  }

  ready(): void {
    this.#call({ type: 'host.ready' })
  }

  queued(): void {
    this.#emit({ type: 'host.queued', queued: true })
  }

  started(): void {
    this.#emit({ type: 'host.queued', queued: false })
  }

  async write(chunk: Chunk, options: WaitOptions = {}): Promise<void> {
    const { tokens, pages: given, state, layers, after } = takeChunk(chunk)
    this.#checkAfter(after)
    const { signal } = takeWait(options)
    const pages = namedPages(this.#cache, given)
    const write = this.#nextWrite++
    const posted = new Deferred<void>()
    this.#writes.set(write, posted)
    try {
      this.#call({ type: 'host.write', write, tokens, pages, state, layers, after })
    } catch (error) {
      this.#writes.delete(write)
      throw error
    }
    if (this.#poll === KVPoll.WaitingForInput) this.#poll = KVPoll.Transferring
    await orAborted(posted.promise, signal)
  }

  async finish(
    last: { state?: PageListsByComponent; aux?: Aux; after?: DeviceWork } = {},
    options: WaitOptions = {},
  ): Promise<TransferSummary> {
    const { state, aux, after } = takeLast(last)
    this.#checkAfter(after)
    const { signal } = takeWait(options)
    this.#call({ type: 'host.finish', state, aux, after })
    return orAborted(this.#finished.promise, signal)
  }

  #checkAfter(after: DeviceWork | undefined): void {
    const { capabilities, identity } = this.#engine.current.engine
    if (after === undefined || capabilities.after === true) return
    throw new KvxError(
      'ERR_KVX_INVALID_ARGUMENT',
      `The backend '${identity.backend}' cannot wait for the work of a device: synchronize before the call and leave 'after' out.`,
      { phase: 'transfer' },
    )
  }

  /** Throws what is wrong with the call; then nothing has changed. */
  #call(event: SenderEvent): void {
    checkLive(this)
    this.#emit(event)
    const rejection = this.#rejected.pop()
    if (rejection) throw rejection
  }

  abort(reason: string | Error = 'aborted by the host'): void {
    this.#emit({ type: 'host.abort', reason })
  }

  poll(): KVPoll {
    return this.#poll
  }

  hear(effect: SenderEffect): void {
    switch (effect.do) {
      case 'sender.reserved':
        this.#poll = KVPoll.WaitingForInput
        this.#reserved.resolve({
          prefixTokens: effect.prefixTokens,
          firstTokens: effect.firstTokens,
        })
        return
      case 'sender.posted':
        this.#writes.get(effect.write)?.resolve()
        this.#writes.delete(effect.write)
        return
      case 'sender.rejected':
        this.#rejected.push(effect.error)
        return
      case 'sender.finished':
        this.#poll = KVPoll.Success
        this.#finished.resolve(effect.summary)
        return
      case 'sender.failed':
        this.#poll = KVPoll.Failed
        this.error = toKvxError(effect.error)
        this.#reserved.reject(this.error)
        this.#finished.reject(this.error)
        for (const write of this.#writes.values()) write.reject(this.error)
        this.#writes.clear()
        return
      case 'sender.settled':
        this.#settled.resolve()
        return
    }
  }
}
