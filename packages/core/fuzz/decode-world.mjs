/** A decode side with requests in every phase, and what its prefill ranks and strangers may say to it. */
import { createDecode, protocolVersion, roomKey, stepDecode } from '../dist/protocol/index.js'
import {
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
  units,
} from './fixtures.mjs'
import { sizes } from './prefill-world.mjs'

const tokens = 3 * pageTokens
const named = { kv: Int32Array.of(5, 6, 7), mamba: new Int32Array() }

/** 1 and 2 have said welcome, 3 is being greeted. */
const prefillers = [1, 2, 3].map((number) => ({
  incarnation: name128('P', number),
  endpoint: `tcp://prefill-${number}:4000`,
  instance: `prefill-${number}`,
  bootstrap: `tcp://prefill-${number}:8998`,
  writer: name128('W', number),
}))

export class DecodeWorld {
  name = 'decode'
  state
  #random
  #now = 1_000
  #effects = []
  #request = 0
  #generation = 1

  constructor(random) {
    this.#random = random
    this.state = createDecode(
      {
        incarnation: name128('D'),
        session: name128('S'),
        instance: 'decode',
        rank,
        backend: 'fake',
        version: '1',
        fence: random.pick(['exit', 'engine']),
        ...cache,
        packed: packedCache(),
        prefixBlock: pageTokens,
        verify: random.chance(0.3),
        deadlines,
        limits,
      },
      { ...engineOf(), generation: name128('G', 1) },
    )
    for (const prefiller of prefillers) {
      this.#receive(prefiller)
      this.#read(prefiller)
      this.#step({ type: 'link.up', endpoint: prefiller.endpoint })
      if (prefiller !== prefillers[2]) this.#say(prefiller, this.#welcome(prefiller))
    }
    for (let i = 0; i < 3; i++) this.turn()
  }

  /** Where a message comes from: the rank that it names, or another one. */
  from(message) {
    const own = prefillers.find(({ incarnation }) => incarnation === message.from)
    if (own && this.#random.chance(0.6)) return own.endpoint
    return this.#random.pick([...prefillers, { endpoint: 'tcp://nobody:1' }]).endpoint
  }

  /** Whether a message must change nothing because of who sends it: judged by this world's own books. */
  isForeign(endpoint, message) {
    const { self, engine } = this.state
    // The one answer of a stranger that counts: another process serves at this address now.
    if (message.k === 'refuse' && message.code === 'ERR_KVX_STALE' && message.ep === undefined)
      return false
    if (message.to !== self.incarnation) return true
    const owner = prefillers.find((prefiller) => prefiller.endpoint === endpoint)
    if (owner?.incarnation !== message.from) return true
    return message.gen !== undefined && message.gen !== engine.generation
  }

  step(endpoint, message) {
    return this.#step({ type: 'message', endpoint, message })
  }

  #step(event) {
    const effects = stepDecode(this.state, event, this.#now)
    for (const effect of effects) {
      if (['watchSource', 'connect', 'verify', 'fence', 'recycle'].includes(effect.do))
        this.#effects.push(effect)
    }
    return effects
  }

  #envelope(prefiller) {
    return { v: protocolVersion, from: prefiller.incarnation, to: this.state.self.incarnation }
  }

  #welcome(prefiller) {
    return {
      k: 'welcome',
      writer: prefiller.writer,
      instance: prefiller.instance,
      rank,
      ...packedCache(),
      engine: { backend: 'fake', version: '1' },
      limits: { parked: 8, auxBytes: limits.auxBytes },
    }
  }

  #say(prefiller, body) {
    const gen = this.state.engine.generation
    return this.step(prefiller.endpoint, { ...this.#envelope(prefiller), gen, ...body })
  }

  #read({ bootstrap, endpoint, incarnation, instance }) {
    this.#step({
      type: 'source.read',
      from: bootstrap,
      ranks: [{ endpoint, incarnation, instance, rank }],
    })
  }

  #receive({ bootstrap }) {
    const request = ++this.#request
    const room = BigInt(request)
    const of = { key: roomKey(room, 0), room, index: 0, from: bootstrap, tokens, digest: digest() }
    this.#step({ type: 'host.receive', request, ...of, deadlines })
    return request
  }

  #reserve(request, pages = named) {
    this.#step({ type: 'host.reserve', request, prefixTokens: 0, pages: pages ?? undefined })
  }

  #complete(ep) {
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

  #legs(prefiller) {
    return [...(this.state.links.get(prefiller.endpoint)?.legs.values() ?? [])]
  }

  /** Time passes: requests come and go on, peers answer, and there is something in every phase again. */
  turn() {
    const random = this.#random
    this.#now += random.below(1_000)
    for (const effect of this.#effects.splice(0)) this.#answer(effect)
    for (const prefiller of prefillers.slice(0, 2)) {
      const link = this.state.links.get(prefiller.endpoint)
      if (link?.status === 'greeting') this.#say(prefiller, this.#welcome(prefiller))
      this.#step({
        type: 'message',
        endpoint: prefiller.endpoint,
        message: { ...this.#envelope(prefiller), k: 'pong', live: 0 },
      })
      for (const { epoch, phase, request } of this.#legs(prefiller)) {
        if (phase === 'failed') {
          if (random.chance(0.5)) this.#say(prefiller, { k: 'drained', ep: epoch })
        } else if (phase === 'reserving') {
          if (random.chance(0.5))
            this.#say(prefiller, {
              k: 'accept',
              ep: epoch,
              state: random.pick(['parked', 'paired']),
            })
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
      this.#reserve(this.#receive(prefiller), null)
      for (let i = 0; i < 3; i++) this.#reserve(this.#receive(prefiller))
    }
    for (const request of [...this.state.requests.values()]) {
      if (request.wantedTold && !request.destination?.pages && random.chance(0.3)) {
        this.#step({
          type: 'host.provide',
          request: request.id,
          pages: named,
        })
      } else if (request.phase === 'open' && random.chance(0.3)) {
        this.#step({ type: 'host.abort', request: request.id, reason: 'enough' })
      }
    }
    this.#step({ type: 'tick' })
  }

  #answer(effect) {
    switch (effect.do) {
      case 'watchSource': {
        const prefiller = prefillers.find(({ bootstrap }) => bootstrap === effect.from)
        if (prefiller) this.#read(prefiller)
        return
      }
      case 'connect':
        this.#step({ type: 'link.up', endpoint: effect.endpoint })
        return
      case 'verify':
        this.#step({
          type: 'verified',
          request: effect.request,
          epoch: effect.epoch,
          error: undefined,
        })
        return
      case 'fence':
        this.#step({ type: 'fenced', writer: effect.writer })
        return
      case 'recycle':
        this.#step({
          type: 'engine.recycled',
          engine: { ...engineOf(), generation: name128('G', ++this.#generation) },
        })
    }
  }

  /** Messages that would be in order just now, from each prefill rank. */
  templates() {
    const made = []
    const gen = this.state.engine.generation
    for (const prefiller of prefillers) {
      const about = { ...this.#envelope(prefiller), gen }
      const failure = {
        code: 'ERR_KVX_TRANSFER_FAILED',
        text: 'broken',
        phase: 'transfer',
        peer: 'p',
        rank: 'tp0',
      }
      made.push({ ...about, ...this.#welcome(prefiller) })
      made.push(
        { ...about, k: 'refuse', ...failure },
        { ...about, k: 'refuse', ...failure, code: 'ERR_KVX_STALE' },
      )
      made.push({ ...this.#envelope(prefiller), k: 'pong', live: 1 })
      for (const { epoch: ep } of this.#legs(prefiller)) {
        const complete = { ...about, ...this.#complete(ep) }
        const failed = { ...about, k: 'failed', ep, ...failure }
        made.push(
          ...['parked', 'paired'].map((state) => ({ ...about, k: 'accept', ep, state })),
          { ...about, k: 'progress', ep, units: 2 },
          { ...about, k: 'refuse', ep, ...failure },
          { ...about, k: 'status', ep, state: 'over', units: 0 },
          { ...about, k: 'status', ep, state: 'complete', units, outcome: complete },
          ...['ready', 'drained'].map((k) => ({ ...about, k, ep })),
          complete,
          failed,
        )
      }
    }
    return made
  }

  leftovers() {
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
    const { requests, rooms } = this.state
    return sizes({ requests, rooms })
  }
}
