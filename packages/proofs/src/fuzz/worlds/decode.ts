/** A decode side with requests in every phase, and what its prefill ranks and strangers may say to it. */
import {
  createDecode,
  protocolVersion,
  roomKey,
  stepDecode,
  type DecodeEffect,
  type DecodeEvent,
  type DecodeState,
  type Message,
  type MessageOf,
} from '@kvx/core/protocol'
import type { FrameRandom } from '../random.ts'
import {
  bays,
  cache,
  deadlines,
  digest,
  engineOf,
  kvBytes,
  limits,
  longTime,
  name128,
  packedCache,
  pageTokens,
  rank,
  stagingOf,
  tokens,
  units,
} from './fixtures.ts'
import { sizes, type ProtocolWorld, type Said, type Template } from './world.ts'

const stagedParts: MessageOf<'staged'>['parts'] = [
  { component: 'kv', layers: [0, 1], first: 0, count: 3 },
]
const named = { kv: Int32Array.of(5, 6, 7), mamba: new Int32Array() }

/** 1 and 2 have said welcome, 3 is being greeted. */
const prefillerOf = (number: number) => ({
  incarnation: name128('P', number),
  endpoint: `tcp://prefill-${String(number)}:4000`,
  instance: `prefill-${String(number)}`,
  bootstrap: `tcp://prefill-${String(number)}:8998`,
  writer: name128('W', number),
})
type Prefiller = ReturnType<typeof prefillerOf>
const welcoming = [prefillerOf(1), prefillerOf(2)]
const prefillers = [...welcoming, prefillerOf(3)]

/** Effects that this world answers. */
const answered = ['watchSource', 'connect', 'verify', 'scatter', 'fence', 'recycle'] as const
type Answered = Extract<DecodeEffect, { do: (typeof answered)[number] }>
const isAnswered = (effect: DecodeEffect): effect is Answered =>
  (answered as readonly string[]).includes(effect.do)

export class DecodeWorld implements ProtocolWorld {
  readonly name = 'decode'
  readonly state: DecodeState
  readonly #random: FrameRandom
  #now = 1_000
  #effects: Answered[] = []
  #request = 0
  #generation = 1

  constructor(random: FrameRandom) {
    this.#random = random
    this.state = createDecode(
      {
        incarnation: name128('D'),
        session: name128('S'),
        instance: 'decode',
        rank,
        backend: 'fake',
        version: '1',
        fence: random.one(['exit', 'engine'] as const),
        staging: bays,
        ...cache,
        packed: packedCache(),
        prefixBlock: pageTokens,
        verify: random.chance(0.3),
        deadlines,
        limits,
      },
      { ...engineOf(), staging: stagingOf().region, generation: name128('G', 1) },
    )
    for (const prefiller of prefillers) {
      this.#receive(prefiller)
      this.#read(prefiller)
      this.#step({ type: 'link.up', endpoint: prefiller.endpoint })
      if (welcoming.includes(prefiller)) this.#say(prefiller, this.#welcome(prefiller))
    }
    for (let i = 0; i < 3; i++) this.turn()
  }

  /** The rank that it names, or another one. */
  from(message: Message): string {
    const own = prefillers.find(({ incarnation }) => incarnation === message.from)
    if (own && this.#random.chance(0.6)) return own.endpoint
    return this.#random.one([...prefillers, { endpoint: 'tcp://nobody:1' }]).endpoint
  }

  isForeign(endpoint: string, message: Message): boolean {
    const { self, engine } = this.state
    // The one answer of a stranger that counts: another process serves at this address now.
    if (message.k === 'refuse' && message.code === 'ERR_KVX_STALE' && message.ep === undefined)
      return false
    if (message.to !== self.incarnation) return true
    const owner = prefillers.find((prefiller) => prefiller.endpoint === endpoint)
    if (owner?.incarnation !== message.from) return true
    return 'gen' in message && message.gen !== engine.generation
  }

  step(endpoint: string, message: Message): readonly DecodeEffect[] {
    return this.#step({ type: 'message', endpoint, message })
  }

  #step(event: DecodeEvent): readonly DecodeEffect[] {
    const effects = stepDecode(this.state, event, this.#now)
    this.#effects.push(...effects.filter(isAnswered))
    return effects
  }

  #envelope(prefiller: Prefiller) {
    const { incarnation } = this.state.self
    return { v: protocolVersion, from: prefiller.incarnation, to: incarnation } as const
  }

  #welcome(prefiller: Prefiller) {
    return {
      k: 'welcome',
      writer: prefiller.writer,
      instance: prefiller.instance,
      rank,
      ...packedCache(),
      engine: { backend: 'fake', version: '1' },
      limits: { parked: 8, auxBytes: limits.auxBytes },
    } as const
  }

  #says(prefiller: Prefiller, body: Said): Message {
    return { ...this.#envelope(prefiller), gen: this.state.engine.generation, ...body }
  }

  #say(prefiller: Prefiller, body: Said): void {
    this.step(prefiller.endpoint, this.#says(prefiller, body))
  }

  #read({ bootstrap, endpoint, incarnation, instance }: Prefiller): void {
    this.#step({
      type: 'source.read',
      from: bootstrap,
      ranks: [{ endpoint, incarnation, instance, rank }],
    })
  }

  #receive({ bootstrap }: Prefiller): number {
    const request = ++this.#request
    const room = BigInt(request)
    const of = { key: roomKey(room, 0), room, index: 0, from: bootstrap, tokens, digest: digest() }
    this.#step({ type: 'host.receive', request, ...of, dpRank: undefined, deadlines })
    return request
  }

  /** @param pages undefined: they are given later */
  #reserve(request: number, pages: typeof named | undefined): void {
    this.#step({ type: 'host.reserve', request, prefixTokens: 0, pages })
  }

  #complete(ep: number): Said<'complete'> {
    const parts = { kv: { units, bytes: 3 * kvBytes } }
    const made = { kv: new Uint8Array(16), mamba: new Uint8Array(16) }
    const digests = this.state.self.verify ? { digests: made } : {}
    return {
      k: 'complete',
      ep,
      manifest: { parts, chunks: 1, ms: 1, ...digests },
      aux: { firstToken: 1 },
    }
  }

  #legs(prefiller: Prefiller) {
    return [...(this.state.links.get(prefiller.endpoint)?.legs.values() ?? [])]
  }

  turn(): void {
    const random = this.#random
    this.#now += random.below(1_000)
    for (const effect of this.#effects.splice(0)) this.#answer(effect)
    for (const prefiller of welcoming) {
      const link = this.state.links.get(prefiller.endpoint)
      if (link?.status === 'greeting') this.#say(prefiller, this.#welcome(prefiller))
      this.step(prefiller.endpoint, { ...this.#envelope(prefiller), k: 'pong', live: 0 })
      for (const { epoch, phase, request, loads } of this.#legs(prefiller)) {
        const [known] = loads.values()
        if (phase === 'paired' && !known && random.chance(0.3)) {
          const load = this.state.requests.get(request.id)!.legs[0]!.endedTo + 1
          this.#say(prefiller, { k: 'stage', ep: epoch, load, bytes: 3 * kvBytes, ms: 750 })
          continue
        }
        if (phase === 'paired' && known?.phase === 'granted' && random.chance(0.5)) {
          this.#say(prefiller, { k: 'staged', ep: epoch, load: known.number, parts: stagedParts })
          continue
        }
        if (phase === 'failed') {
          if (random.chance(0.5)) this.#say(prefiller, { k: 'drained', ep: epoch })
        } else if (phase === 'reserving') {
          const state = random.one(['parked', 'paired'] as const)
          if (random.chance(0.5)) this.#say(prefiller, { k: 'accept', ep: epoch, state })
        } else if (phase === 'paired' && random.chance(0.3)) {
          this.#say(
            prefiller,
            request.destination?.pages ? this.#complete(epoch) : { k: 'ready', ep: epoch },
          )
        } else if (random.chance(0.1)) {
          this.#step({ type: 'host.abort', request: request.id, reason: 'enough' })
        }
      }
      if (this.state.requests.size > 16) continue
      // One that has told no pages yet, one that gives them late, and three that are on their way.
      this.#receive(prefiller)
      this.#reserve(this.#receive(prefiller), undefined)
      for (let i = 0; i < 3; i++) this.#reserve(this.#receive(prefiller), named)
    }
    for (const request of [...this.state.requests.values()]) {
      if (request.wantedTold && !request.destination?.pages && random.chance(0.3)) {
        this.#step({ type: 'host.provide', request: request.id, pages: named })
      } else if (request.phase === 'open' && random.chance(0.3)) {
        this.#step({ type: 'host.abort', request: request.id, reason: 'enough' })
      }
    }
    this.#step({ type: 'tick' })
  }

  #answer(effect: Answered): void {
    switch (effect.do) {
      case 'watchSource': {
        const prefiller = prefillers.find(({ bootstrap }) => bootstrap === effect.from)
        if (prefiller) this.#read(prefiller)
        return
      }
      case 'connect':
        this.#step({ type: 'link.up', endpoint: effect.endpoint })
        return
      case 'verify': {
        const { request, epoch } = effect
        this.#step({ type: 'verified', request, epoch, error: undefined })
        return
      }
      case 'scatter': {
        const { request, epoch, load } = effect
        this.#step({ type: 'scattered', request, epoch, load })
        return
      }
      case 'fence':
        this.#step({ type: 'fenced', writer: effect.writer })
        return
      case 'recycle':
        this.#step({
          type: 'engine.recycled',
          engine: {
            ...engineOf(),
            staging: stagingOf().region,
            generation: name128('G', ++this.#generation),
          },
        })
    }
  }

  templates(): readonly Template[] {
    const made: Message[] = []
    const failure = {
      code: 'ERR_KVX_TRANSFER_FAILED',
      text: 'broken',
      phase: 'transfer',
      peer: 'p',
      rank: 'tp0',
    } as const
    for (const prefiller of prefillers) {
      const says = (body: Said) => made.push(this.#says(prefiller, body))
      says(this.#welcome(prefiller))
      says({ k: 'refuse', ...failure })
      says({ k: 'refuse', ...failure, code: 'ERR_KVX_STALE' })
      made.push({ ...this.#envelope(prefiller), k: 'pong', live: 1 })
      for (const { epoch: ep } of this.#legs(prefiller)) {
        const about = { ...this.#envelope(prefiller), gen: this.state.engine.generation }
        const outcome = { ...about, ...this.#complete(ep) }
        says({ k: 'accept', ep, state: 'parked' })
        says({ k: 'accept', ep, state: 'paired' })
        says({ k: 'progress', ep, units: 2 })
        says({ k: 'refuse', ep, ...failure })
        says({ k: 'status', ep, state: 'over', units: 0 })
        says({ k: 'status', ep, state: 'complete', units, outcome })
        says({ k: 'ready', ep })
        says({ k: 'stage', ep, load: 1, bytes: 3 * kvBytes, ms: 750 })
        says({ k: 'staged', ep, load: 1, parts: stagedParts })
        says({ k: 'drained', ep })
        says({ k: 'failed', ep, ...failure })
        made.push(outcome)
      }
    }
    return made
  }

  leftovers(): string {
    for (let i = 0; i < 8; i++) {
      this.#now += longTime
      this.#step({ type: 'tick' })
      for (const effect of this.#effects.splice(0))
        if (effect.do !== 'connect') this.#answer(effect)
      // Whoever still owes `drained` says so, once it is greeted again.
      for (const prefiller of prefillers) {
        for (const { epoch } of this.#legs(prefiller))
          this.#say(prefiller, { k: 'drained', ep: epoch })
      }
    }
    const { requests, rooms, bayQueue } = this.state
    const taken = { size: this.state.bays.taken.filter(Boolean).length }
    return sizes({ requests, rooms, bays: taken, bayQueue: { size: bayQueue.length } })
  }
}
