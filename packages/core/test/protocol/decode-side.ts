/** The decode side alone: the test plays its prefill rank, the bootstrap, the engine and the host. */
import { KvxError, type ErrorCode, type FenceKind } from '@kvx/contract'
import type { Deadlines, Limits } from '../../src/manager/types.ts'
import { prefixBlock } from '../../src/plan/index.ts'
import {
  createDecode,
  protocolVersion,
  roomKey,
  stepDecode,
  type DecodeEffect,
  type DecodeEvent,
  type DecodeState,
  type DpRank,
  type Message,
  type MessageOf,
  type Rank,
} from '../../src/protocol/index.ts'
import {
  deadlines,
  digest,
  int32,
  kvBytes,
  limits,
  name128,
  onWire,
  overTheWire,
  rank,
  shortly,
  smallCache,
  unitsOf,
  type Cache,
} from './fixtures.ts'

export const bootstrap = 'tcp://prefill:8998'

/** One prefill process as the decode side sees it. */
export interface Prefiller {
  readonly incarnation: string
  readonly endpoint: string
  readonly instance: string
  readonly writer: string
}

export function prefiller(number = 1, change: Partial<Prefiller> = {}): Prefiller {
  return {
    incarnation: name128('P', number),
    endpoint: 'tcp://prefill:4000',
    instance: 'prefill-a',
    writer: name128('W', number),
    ...change,
  }
}

export class DecodeSide {
  readonly state: DecodeState
  now = 1_000
  effects: DecodeEffect[] = []

  constructor(
    change: {
      fence?: FenceKind
      staging?: DecodeState['self']['staging']
      verify?: boolean
      deadlines?: Partial<Deadlines>
      limits?: Partial<Limits>
      cache?: Cache
      rank?: Rank
    } = {},
  ) {
    const cache = change.cache ?? smallCache()
    const { rank: at = rank } = change
    this.state = createDecode(
      {
        incarnation: name128('D'),
        session: name128('S'),
        instance: 'decode-a',
        rank: at,
        backend: 'fake',
        version: '1',
        fence: change.fence ?? 'exit',
        staging: change.staging,
        ...cache,
        packed: onWire(cache),
        prefixBlock: prefixBlock(cache.shape, at, cache.place),
        verify: change.verify ?? false,
        deadlines: { ...deadlines, ...change.deadlines },
        limits: { ...limits, ...change.limits },
      },
      {
        generation: name128('G', 1),
        address: new Uint8Array(1),
        regions: [new Uint8Array(1)],
        staging: change.staging && new Uint8Array(1),
      },
    )
  }

  step(event: DecodeEvent): this {
    const effects = stepDecode(this.state, event, this.now)
    for (const effect of effects) if (effect.do === 'send') overTheWire(effect.message)
    this.effects.push(...effects)
    return this
  }

  message(from: Prefiller, body: Record<string, unknown>): this {
    const message = overTheWire({
      v: protocolVersion,
      from: from.incarnation,
      to: this.state.self.incarnation,
      ...(body.k === 'pong' ? {} : { gen: this.state.engine.generation }),
      ...body,
    })
    return this.step({ type: 'message', endpoint: from.endpoint, message })
  }

  receive(
    request = 1,
    change: {
      room?: bigint
      from?: string
      tokens?: number
      dpRank?: DpRank
      deadlines?: Partial<Deadlines>
    } = {},
  ): this {
    const { room = 9n, from = bootstrap, tokens = 12 } = change
    return this.step({
      type: 'host.receive',
      dpRank: change.dpRank,
      request,
      key: roomKey(room, 0),
      room,
      index: 0,
      from,
      tokens,
      digest: digest(),
      deadlines: { ...this.state.self.deadlines, ...change.deadlines },
    })
  }

  /** Three pages, 5, 6 and 7, and no slot. */
  reserve(
    request = 1,
    pages: Int32Array = int32(5, 6, 7),
    prefixTokens = 0,
    state: Record<string, Int32Array> = {},
  ): this {
    return this.reserveAll({ kv: pages, mamba: int32(), ...state }, { request, prefixTokens })
  }

  reserveAll(
    pages: Record<string, Int32Array>,
    { request = 1, prefixTokens = 0 }: { request?: number; prefixTokens?: number } = {},
  ): this {
    return this.step({ type: 'host.reserve', request, prefixTokens, pages })
  }

  reserveLate(request = 1, prefixTokens = 0): this {
    return this.step({ type: 'host.reserve', request, prefixTokens, pages: undefined })
  }

  provide(
    request = 1,
    pages: Record<string, Int32Array> = { kv: int32(5, 6, 7), mamba: int32() },
  ): this {
    return this.step({ type: 'host.provide', request, pages })
  }

  hostAbort(request = 1): this {
    return this.step({ type: 'host.abort', request, reason: 'decode does not want it' })
  }

  read(prefill: Prefiller, from = bootstrap): this {
    const { endpoint, incarnation, instance } = prefill
    return this.step({
      type: 'source.read',
      from,
      ranks: [{ endpoint, incarnation, instance, rank }],
    })
  }

  sourceFailed(code: ErrorCode = 'ERR_KVX_BOOTSTRAP_UNREACHABLE', from = bootstrap): this {
    return this.step({ type: 'source.failed', from, error: new KvxError(code, 'nobody') })
  }

  up(prefill: Prefiller): this {
    return this.step({ type: 'link.up', endpoint: prefill.endpoint })
  }

  down(prefill: Prefiller): this {
    return this.step({ type: 'link.down', endpoint: prefill.endpoint })
  }

  welcome(prefill: Prefiller, change: Partial<MessageOf<'welcome'>> = {}): this {
    return this.message(prefill, {
      k: 'welcome',
      writer: prefill.writer,
      instance: prefill.instance,
      rank,
      ...onWire(smallCache()),
      engine: { backend: 'fake', version: '1' },
      limits: { parked: 4, auxBytes: limits.auxBytes },
      ...change,
    })
  }

  /** A request that has found its prefill rank, which has welcomed it. */
  open(prefill: Prefiller, request = 1): this {
    return this.receive(request).read(prefill).up(prefill).welcome(prefill)
  }

  reconnect(prefill: Prefiller): this {
    return this.down(prefill).up(prefill).welcome(prefill)
  }

  complete(
    prefill: Prefiller,
    ep = 1,
    change: { pages?: number; digests?: Record<string, Uint8Array>; blob?: Uint8Array } = {},
  ): this {
    return this.message(prefill, { ...completeBody(ep, change) })
  }

  recycled(number = 2): this {
    return this.step({
      type: 'engine.recycled',
      engine: {
        generation: name128('G', number),
        address: new Uint8Array(1),
        regions: [new Uint8Array(1)],
      },
    })
  }

  tick(ms = 0): this {
    this.now += ms
    return this.step({ type: 'tick' })
  }

  /** Time passes while `alive` answers pings. */
  pass(ms: number, alive?: Prefiller): this {
    const end = this.now + ms
    while (this.now < end) {
      this.now += Math.min(this.state.self.deadlines.ping, end - this.now)
      if (alive) this.message(alive, { k: 'pong', live: 0 })
      this.step({ type: 'tick' })
    }
    return this
  }

  take(): {
    sent: string[]
    told: string[]
    world: string[]
    messages: Message[]
    effects: DecodeEffect[]
  } {
    const { effects } = this
    this.effects = []
    const messages = effects.flatMap((effect) =>
      effect.do === 'send' ? [overTheWire(effect.message)] : [],
    )
    return {
      effects,
      messages,
      sent: messages.filter(({ k }) => k !== 'ping' && k !== 'queued').map(shortly),
      told: effects.flatMap(news),
      world: effects.flatMap((e) =>
        [
          'watchSource',
          'unwatchSource',
          'askPublished',
          'unaskPublished',
          'connect',
          'disconnect',
          'verify',
          'scatter',
          'fence',
          'recycle',
        ].includes(e.do)
          ? [e.do]
          : [],
      ),
    }
  }

  clear(): this {
    this.take()
    return this
  }

  /** Phase of a request; `gone` once its pages are free. */
  where(request = 1): string {
    return this.state.requests.get(request)?.phase ?? 'gone'
  }

  link(prefill: Prefiller): string {
    return this.state.links.get(prefill.endpoint)?.status ?? 'gone'
  }

  /** Everything that must not outlive its request, as one line; empty when nothing is left. */
  left(): string {
    const { requests, rooms, sources, links, bays, bayQueue } = this.state
    const counts: Record<string, number> = {
      requests: requests.size,
      rooms: rooms.size,
      bays: bays.taken.filter(Boolean).length,
      'loads that wait': bayQueue.length,
    }
    for (const link of links.values()) {
      counts[`legs of ${link.endpoint}`] = link.legs.size
      counts[`waiting for ${link.endpoint}`] = link.waiting.size
    }
    for (const source of sources.values()) {
      counts[`requests of ${source.from}`] = source.requests.size
    }
    return Object.entries(counts)
      .filter(([, count]) => count !== 0)
      .map(([what, count]) => `${what}: ${String(count)}`)
      .join(', ')
  }
}

export function completeBody(
  ep = 1,
  change: { pages?: number; digests?: Record<string, Uint8Array>; blob?: Uint8Array } = {},
) {
  const { pages = 3, digests, blob } = change
  return {
    k: 'complete',
    ep,
    manifest: {
      parts: { kv: { units: unitsOf(pages), bytes: pages * kvBytes } },
      chunks: 2,
      ms: 3,
      ...(digests === undefined ? {} : { digests }),
    },
    aux: { firstToken: 42, ...(blob === undefined ? {} : { blob }) },
  }
}

function news(effect: DecodeEffect): string[] {
  switch (effect.do) {
    case 'receiver.accepted':
      return [`accepted(${String(effect.prefixTokens)})`]
    case 'receiver.wanted':
      return ['wanted']
    case 'receiver.done':
      return ['done']
    case 'receiver.failed':
      return [`failed(${effect.error.code.replace('ERR_KVX_', '')})`]
    case 'receiver.settled':
      return ['settled']
    case 'receiver.transferring':
      return ['transferring']
    case 'receiver.rejected':
      return [`rejected(${effect.error.code.replace('ERR_KVX_', '')})`]
    default:
      return []
  }
}
