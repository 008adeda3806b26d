import { KvxError, toKvxError, type Log } from '@kvx/contract'
import {
  createDecode,
  receiveObjection,
  roomKey,
  settings,
  stepDecode,
  type DecodeEffect,
  type DecodeEvent,
  type DecodeState,
  type Draining,
  type Itself,
} from '../protocol/index.ts'
import {
  checkLeg,
  namedPages,
  takeDrain,
  takeProvision,
  takeReservation,
  takeWait,
} from './arguments.ts'
import { checkLive, checkOpen, checkSize, until } from './check.ts'
import { Deferred, orAborted } from '../deferred.ts'
import { DecodeEffects, type ReceiverEffect } from './effects/decode.ts'
import type { Engine } from './engine.ts'
import { Loop } from './loop.ts'
import {
  KVPoll,
  type Aux,
  type DecodeManager as DecodeManagerType,
  type KVReceiver,
  type PeerState,
  type ReceiveRequest,
  type TransferSummary,
  type WaitOptions,
} from './types.ts'

/** The decode side of a host: receivers over one engine, and connections to prefill ranks. */
export class DecodeManager implements DecodeManagerType {
  readonly role = 'decode'
  readonly incarnation: string
  readonly engine: { readonly backend: string; readonly version: string }
  readonly state: DecodeState
  readonly #effects: DecodeEffects
  readonly #loop: Loop<DecodeEvent, DecodeEffect>
  readonly #receivers = new Map<number, Receiver>()
  #nextReceiver = 1
  #draining: Draining | undefined
  #closing: Promise<void> | undefined

  constructor(options: {
    self: Parameters<typeof createDecode>[0]
    engine: Engine
    token: string
    /** Bytes that may wait for one prefill rank. */
    maxUnsentBytes: number
    log: Log
  }) {
    const { self, engine } = options
    this.incarnation = self.incarnation
    this.engine = { backend: self.backend, version: self.version }
    this.state = createDecode(self, engine.current.address)
    this.#loop = new Loop<DecodeEvent, DecodeEffect>(
      (event, now) => stepDecode(this.state, event, now),
      (effect) => {
        this.#perform(effect)
      },
      { type: 'tick' },
    )
    this.#effects = new DecodeEffects({
      ...options,
      emit: (event) => {
        this.#loop.dispatch(event)
      },
    })
  }

  peers(): PeerState[] {
    return Array.from(this.state.links.values(), ({ instance, rank, status, legs, waiting }) => ({
      ...{ instance, rank, requests: legs.size + waiting.size },
      state: status === 'ready' ? 'connected' : status === 'lost' ? 'lost' : 'connecting',
    }))
  }

  receive(room: bigint, request: ReceiveRequest): KVReceiver {
    checkLeg('receive', { room, request })
    checkSize(request, this.state.self)
    const index = request.index ?? 0
    checkOpen(this.#draining, this.#closing !== undefined)
    const key = roomKey(room, index)
    const objection = receiveObjection(this.state, key)
    if (objection) throw objection
    const deadlines = settings(this.state.self.deadlines, request.deadlines, 'deadline', {
      role: this.role,
      isRequest: true,
    })
    const id = this.#nextReceiver++
    const { from, tokens, digest, dpRank } = request
    const receiver = new Receiver(
      room,
      index,
      this.state.self,
      (event) => {
        this.#loop.dispatch({ ...event, request: id })
      },
      () => this.state.sources.get(from)?.ranks !== undefined,
    )
    this.#receivers.set(id, receiver)
    this.#loop.dispatch({
      type: 'host.receive',
      request: id,
      key,
      room,
      index,
      from,
      tokens,
      digest,
      dpRank,
      deadlines,
    })
    return receiver
  }

  async drain(options: { deadlineMs?: number } = {}): Promise<void> {
    const { deadlineMs = this.state.self.deadlines.progress } = takeDrain(options)
    this.#draining = {}
    await until(
      Promise.all([...this.#receivers.values()].map(({ settled }) => settled)),
      deadlineMs,
    )
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const receivers = [...this.#receivers.values()]
    const closed = new KvxError('ERR_KVX_CLOSED', 'The decode manager was closed.')
    for (const receiver of receivers) receiver.abort(closed)
    await until(
      Promise.all(receivers.map((receiver) => receiver.settled)),
      this.state.self.deadlines.drain,
    )
    try {
      await this.#effects.close()
    } finally {
      this.#loop.close()
    }
  }

  #perform(effect: DecodeEffect): void {
    if (!isForHost(effect)) {
      this.#effects.perform(effect)
      return
    }
    this.#receivers.get(effect.request)?.hear(effect)
    if (effect.do === 'receiver.settled') this.#receivers.delete(effect.request)
  }
}

function isForHost(effect: DecodeEffect): effect is ReceiverEffect {
  return effect.do.startsWith('receiver.')
}

type HostEvent = Extract<DecodeEvent, { type: `host.${string}` }>
type ReceiverEvent = HostEvent extends infer E
  ? E extends { request: number }
    ? Omit<E, 'request'>
    : never
  : never

class Receiver implements KVReceiver {
  readonly room: bigint
  readonly index: number
  readonly reached: Promise<void>
  readonly wanted: Promise<void>
  readonly done: Promise<{ aux: Aux; report: TransferSummary }>
  readonly settled: Promise<void>
  error: KvxError | undefined
  readonly #emit: (event: ReceiverEvent) => void
  readonly #isFound: () => boolean
  readonly #cache: Itself
  readonly #reached = new Deferred<void>()
  readonly #accepted = new Deferred<{ prefixTokens: number }>()
  readonly #wanted = new Deferred<void>()
  readonly #done = new Deferred<{ aux: Aux; report: TransferSummary }>()
  readonly #settled = new Deferred<void>()
  /** Why the call that is being made was wrong. */
  readonly #rejected: KvxError[] = []
  #poll: KVPoll = KVPoll.Bootstrapping

  constructor(
    room: bigint,
    index: number,
    cache: Itself,
    emit: (event: ReceiverEvent) => void,
    isFound: () => boolean,
  ) {
    this.room = room
    this.index = index
    this.reached = this.#reached.promise
    this.wanted = this.#wanted.promise
    this.done = this.#done.promise
    this.settled = this.#settled.promise
    this.#cache = cache
    this.#emit = emit
    this.#isFound = isFound
  }

  get found(): boolean {
    return this.#isFound()
  }

  async reserve(
    destination: Parameters<KVReceiver['reserve']>[0],
    options: WaitOptions = {},
  ): Promise<{ prefixTokens: number }> {
    const { pages, prefixTokens, state } = takeReservation(destination)
    const { signal } = takeWait(options)
    // A rank that has nothing but state names no pages.
    const now = pages ?? (Object.keys(state).length > 0 ? {} : undefined)
    const named = now && { ...namedPages(this.#cache, now), ...state }
    this.#call({ type: 'host.reserve', prefixTokens, pages: named })
    return orAborted(this.#accepted.promise, signal)
  }

  provide(destination: Parameters<KVReceiver['provide']>[0]): void {
    const { pages, state } = takeProvision(destination)
    this.#call({ type: 'host.provide', pages: { ...namedPages(this.#cache, pages), ...state } })
  }

  /** Throws what is wrong with the call; then nothing has changed. */
  #call(event: ReceiverEvent): void {
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

  hear(effect: ReceiverEffect): void {
    switch (effect.do) {
      case 'receiver.reached':
        this.#reached.resolve()
        return
      case 'receiver.accepted':
        if (this.#poll < KVPoll.WaitingForInput) this.#poll = KVPoll.WaitingForInput
        this.#reached.resolve()
        this.#accepted.resolve({ prefixTokens: effect.prefixTokens })
        return
      case 'receiver.wanted':
        this.#wanted.resolve()
        return
      case 'receiver.transferring':
        this.#poll = KVPoll.Transferring
        return
      case 'receiver.rejected':
        this.#rejected.push(effect.error)
        return
      case 'receiver.done':
        this.#poll = KVPoll.Success
        this.#reached.resolve()
        this.#accepted.resolve({ prefixTokens: 0 })
        this.#wanted.resolve()
        this.#done.resolve({ aux: effect.aux, report: effect.report })
        return
      case 'receiver.failed':
        this.#poll = KVPoll.Failed
        this.error = toKvxError(effect.error)
        this.#reached.reject(this.error)
        this.#accepted.reject(this.error)
        this.#wanted.reject(this.error)
        this.#done.reject(this.error)
        return
      case 'receiver.settled':
        this.#settled.resolve()
        return
    }
  }
}
