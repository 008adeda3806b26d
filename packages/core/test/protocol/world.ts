/**
 * A deterministic world for both reducers: processes with memory, a network that keeps the order within a
 * connection and loses connections, an engine whose writes land at any time until they settle, hosts that
 * use a pool of pages. It checks by its own books, never by the reducers' state:
 *
 * - nothing lands in a page that belongs to nobody, to another request, or to one that has succeeded;
 * - a source page is not given back to its host while a write may read it;
 * - what succeeds has every byte; terminal news comes once, and after it nothing but `settled`.
 */
import { KvxError, type FenceKind } from '@kvx/core/backend'
import { layoutFingerprint } from '../../src/layout/index.ts'
import type { Deadlines } from '../../src/manager/types.ts'
import { laneWidth, type TransferPlan } from '../../src/backend/contract.ts'
import type { Planner } from '../../src/plan/index.ts'
import {
  createDecode,
  createPrefill,
  receiveObjection,
  roomKey,
  sendObjection,
  stepDecode,
  stepPrefill,
  type DecodeEffect,
  type DecodeEvent,
  type DecodeState,
  type Message,
  type PrefillEffect,
  type PrefillEvent,
  type PrefillState,
} from '../../src/protocol/index.ts'
import {
  deadlines,
  kvPages,
  layers,
  limits,
  memoryBytes,
  name128,
  overTheWire,
  pageTokens,
  rank,
  shortly,
  smallLayout,
  statePages,
} from './fixtures.ts'
import { Random } from './random.ts'

export interface WorldOptions {
  readonly seed: number
  readonly fence: FenceKind
  readonly prefills: number
  readonly decodes: number
  readonly deadlines?: Partial<Deadlines>
}

/** One use of a room: a leg on each side, which may miss each other. */
interface Job {
  readonly room: bigint
  readonly tokens: number
  readonly digest: Uint8Array
  readonly prefix: number
  readonly late: boolean
  readonly withState: boolean
  /** Started after the faults had stopped: must succeed. */
  readonly healthy: boolean
}

interface SenderLeg {
  readonly id: number
  readonly job: Job
  readonly host: PrefillProcess
  phase: 'waiting' | 'reserved' | 'finishing' | 'success' | 'failed'
  settled: boolean
  pages: Int32Array
  state: Int32Array
  /** Writes still to be made: prompt pages times layer range. */
  todo: { start: number; pages: number; layers: readonly [number, number] }[]
  nextWrite: number
  unanswered: Set<number>
  admitted: boolean
}

interface ReceiverLeg {
  readonly id: number
  readonly job: Job
  readonly host: DecodeProcess
  phase: 'new' | 'reserving' | 'accepted' | 'success' | 'failed'
  settled: boolean
  reserved: boolean
  provided: boolean
  wanted: boolean
  pages: Int32Array
  state: Int32Array
}

interface Process {
  readonly name: string
  alive: boolean
  frozen: boolean
}

interface PrefillProcess extends Process {
  readonly kind: 'prefill'
  readonly endpoint: string
  readonly state: PrefillState
  readonly memory: Uint8Array
  /** Owner of each page, kv first, then state pages. */
  readonly owners: (SenderLeg | undefined)[]
  readonly legs: Map<number, SenderLeg>
  readonly writes: Write[]
  readonly planners: Map<string, Planner>
  /** Set while its engine is closed. */
  recycling: boolean
}

interface DecodeProcess extends Process {
  readonly kind: 'decode'
  readonly state: DecodeState
  readonly memory: Uint8Array
  readonly owners: (ReceiverLeg | undefined)[]
  readonly legs: Map<number, ReceiverLeg>
  generation: string
  /** Set while its engine is closed. */
  recycling: boolean
  readonly fencing: Set<string>
}

/** A connection of one decode process to one endpoint, as its client keeps it. */
interface Connection {
  readonly decode: DecodeProcess
  readonly endpoint: string
  /** Undefined while it is down. */
  to: PrefillProcess | undefined
  id: string
  up: Message[]
  down: Message[]
}

/** A posted piece, until it has settled. */
interface Write {
  readonly piece: number
  readonly from: PrefillProcess
  readonly to: DecodeProcess
  readonly generation: string
  readonly epochPeer: string
  /** Copies that have not landed. */
  readonly segments: {
    source: number
    destination: number
    bytes: number
    owner: ReceiverLeg | undefined
    reader: SenderLeg | undefined
  }[]
  told: 'no' | 'done' | 'failed'
  /** Never settles while the faults last. */
  readonly stuck: boolean
}

export class World {
  readonly random: Random
  readonly trace: string[] = []
  readonly coverage = new Map<string, number>()
  now = 0
  faulty = true
  readonly #options: WorldOptions
  readonly #deadlines: Deadlines
  readonly #prefills: PrefillProcess[] = []
  readonly #decodes: DecodeProcess[] = []
  readonly #everyone: (PrefillProcess | DecodeProcess)[] = []
  readonly #connections: Connection[] = []
  readonly #reads: { decode: DecodeProcess; from: string; told?: string }[] = []
  readonly #links: { prefill: PrefillProcess; peer: string; generation: string }[] = []
  readonly #senders: SenderLeg[] = []
  readonly #receivers: ReceiverLeg[] = []
  #serial = 0

  constructor(options: WorldOptions) {
    this.#options = options
    this.#deadlines = { ...deadlines, ...options.deadlines }
    this.random = new Random(options.seed)
    for (let i = 0; i < options.prefills; i++) this.#startPrefill(i)
    for (let i = 0; i < options.decodes; i++) this.#startDecode(i)
  }

  // Processes

  #startPrefill(index: number): void {
    const layout = smallLayout()
    const serial = ++this.#serial
    const process: PrefillProcess = {
      kind: 'prefill',
      name: `P${String(index)}.${String(serial)}`,
      alive: true,
      frozen: false,
      endpoint: `tcp://prefill:${String(index)}`,
      state: createPrefill(
        {
          incarnation: name128('P', serial),
          instance: `prefill-${String(index)}`,
          rank,
          backend: 'fake',
          version: '1',
          fence: this.#options.fence,
          layout,
          fingerprint: layoutFingerprint(layout),
          kvLayers: Array.from({ length: layers }, (_, layer) => layer),
          deadlines: this.#deadlines,
          limits,
        },
        name128('W', serial),
      ),
      memory: new Uint8Array(memoryBytes),
      owners: Array.from({ length: kvPages + statePages }, () => undefined),
      legs: new Map(),
      writes: [],
      planners: new Map(),
      recycling: false,
    }
    this.#prefills[index] = process
    this.#everyone.push(process)
  }

  #startDecode(index: number): void {
    const layout = smallLayout()
    const serial = ++this.#serial
    const generation = name128('G', serial)
    const process: DecodeProcess = {
      kind: 'decode',
      name: `D${String(index)}.${String(serial)}`,
      alive: true,
      frozen: false,
      state: createDecode(
        {
          incarnation: name128('D', serial),
          session: name128('S', serial),
          instance: `decode-${String(index)}`,
          rank,
          backend: 'fake',
          version: '1',
          fence: this.#options.fence,
          layout,
          fingerprint: layoutFingerprint(layout),
          verify: false,
          deadlines: this.#deadlines,
          limits,
        },
        { generation, address: new Uint8Array(1), regions: [new Uint8Array(1)] },
      ),
      memory: new Uint8Array(memoryBytes),
      owners: Array.from({ length: kvPages + statePages }, () => undefined),
      legs: new Map(),
      generation,
      recycling: false,
      fencing: new Set(),
    }
    this.#decodes[index] = process
    this.#everyone.push(process)
  }

  /** The process is gone with its memory, its writes and its connections; its hosts' legs are gone with it. */
  #kill(process: PrefillProcess | DecodeProcess): void {
    this.#log(`${process.name} dies`)
    process.alive = false
    for (const connection of this.#connections) {
      if (connection.to === process) this.#disconnect(connection)
    }
    if (process.kind === 'prefill') {
      process.writes.length = 0
      for (const leg of process.legs.values()) leg.settled = true
    } else {
      for (const leg of process.legs.values()) leg.settled = true
      for (const connection of this.#connections.filter(({ decode }) => decode === process)) {
        if (connection.to?.alive)
          this.#stepPrefill(connection.to, { type: 'disconnected', connection: connection.id })
        connection.to = undefined
        this.#connections.splice(this.#connections.indexOf(connection), 1)
      }
      // Its memory is gone: what was on the way lands nowhere.
      for (const prefill of this.#prefills) {
        for (const write of prefill.writes) if (write.to === process) write.segments.length = 0
      }
    }
  }

  // Steps

  #stepPrefill(process: PrefillProcess, event: PrefillEvent): void {
    if (!process.alive) return
    this.#count('prefill', event)
    for (const effect of stepPrefill(process.state, event, this.now))
      this.#doPrefill(process, effect)
  }

  #stepDecode(process: DecodeProcess, event: DecodeEvent): void {
    if (!process.alive) return
    this.#count('decode', event)
    for (const effect of stepDecode(process.state, event, this.now)) this.#doDecode(process, effect)
  }

  #count(side: string, event: PrefillEvent | DecodeEvent): void {
    const what = event.type === 'message' ? `${side} ${event.message.k}` : `${side} ${event.type}`
    this.coverage.set(what, (this.coverage.get(what) ?? 0) + 1)
  }

  #doPrefill(process: PrefillProcess, effect: PrefillEffect): void {
    switch (effect.do) {
      case 'send': {
        const message = overTheWire(effect.message)
        const connection = this.#connections.find(
          ({ id, to }) => id === effect.connection && to === process,
        )
        connection?.down.push(message)
        return
      }
      case 'openLink':
        process.planners.set(effect.peer, effect.planner)
        this.#links.push({ prefill: process, peer: effect.peer, generation: effect.generation })
        return
      case 'closeLink':
        return
      case 'post':
        this.#post(process, effect)
        return
      case 'cancel':
        return
      case 'checksum':
        throw new Error('no decode asked for checksums')
      case 'recycle':
        this.#check(this.#options.fence === 'engine', 'recycle of an engine whose writes end')
        this.#check(!process.recycling, 'recycle twice')
        process.recycling = true
        return
      default:
        this.#tellSender(process, effect)
    }
  }

  #doDecode(process: DecodeProcess, effect: DecodeEffect): void {
    switch (effect.do) {
      case 'send': {
        const message = overTheWire(effect.message)
        const connection = this.#connectionOf(process, effect.endpoint)
        if (connection?.to) connection.up.push(message)
        return
      }
      case 'unwatchSource':
        this.#reads.splice(
          this.#reads.findIndex((r) => r.decode === process && r.from === effect.from),
          1,
        )
        return
      case 'watchSource':
        this.#reads.push({ decode: process, from: effect.from })
        return
      case 'connect': {
        const old = this.#connectionOf(process, effect.endpoint)
        if (old) this.#removeConnection(old)
        this.#connections.push({
          decode: process,
          endpoint: effect.endpoint,
          to: undefined,
          id: '',
          up: [],
          down: [],
        })
        return
      }
      case 'disconnect': {
        const old = this.#connectionOf(process, effect.endpoint)
        if (old) this.#removeConnection(old)
        return
      }
      case 'fence':
        this.#check(this.#options.fence !== 'engine', 'fence() of an engine that has none')
        process.fencing.add(effect.writer)
        return
      case 'recycle':
        this.#check(this.#options.fence === 'engine', 'recycle of an engine that can fence')
        this.#check(!process.recycling, 'recycle twice')
        process.recycling = true
        return
      case 'verify':
        throw new Error('no checksums were asked for')
      default:
        this.#tellReceiver(process, effect)
    }
  }

  #removeConnection(connection: Connection): void {
    this.#connections.splice(this.#connections.indexOf(connection), 1)
    const { to, id } = connection
    connection.to = undefined
    if (to) this.#stepPrefill(to, { type: 'disconnected', connection: id })
  }

  #connectionOf(decode: DecodeProcess, endpoint: string): Connection | undefined {
    return this.#connections.find((c) => c.decode === decode && c.endpoint === endpoint)
  }

  #disconnect(connection: Connection): void {
    const { to, id, decode } = connection
    if (!to) return
    this.#log(
      `${decode.name} and ${to.name} lose their connection, ${String(connection.up.length)} up, ${String(connection.down.length)} down`,
    )
    connection.to = undefined
    connection.up = []
    connection.down = []
    this.#stepPrefill(to, { type: 'disconnected', connection: id })
    this.#stepDecode(decode, { type: 'link.down', endpoint: connection.endpoint })
  }

  // Hosts of prefill

  #tellSender(
    process: PrefillProcess,
    effect: Extract<PrefillEffect, { sender: number; do: `sender.${string}` }>,
  ): void {
    const leg = process.legs.get(effect.sender)
    if (!leg)
      throw new Error(`news for sender ${String(effect.sender)}, which has settled or never was`)
    this.#log(
      `${process.name} host: ${effect.do} of room ${String(leg.job.room)}${'error' in effect ? ` ${effect.error.code}` : ''}`,
    )
    const ended = leg.phase === 'success' || leg.phase === 'failed'
    switch (effect.do) {
      case 'sender.reserved':
        this.#check(leg.phase === 'waiting', `reserved() resolved while ${leg.phase}`)
        leg.phase = 'reserved'
        return
      case 'sender.posted':
      case 'sender.rejected':
        this.#check(
          !ended && leg.unanswered.delete(effect.write),
          `an answer to write ${String(effect.write)} that nobody waits for`,
        )
        this.#check(effect.do === 'sender.posted', 'a proper write was rejected')
        return
      case 'sender.finished':
        this.#check(leg.phase === 'finishing', `finished while ${leg.phase}`)
        leg.phase = 'success'
        this.#check(leg.unanswered.size === 0, 'finished while a write has not been answered')
        return
      case 'sender.failed':
        this.#check(!ended, `failed while ${leg.phase}`)
        if (leg.job.healthy)
          throw new Error(
            `a request on a healed network failed at prefill: ${effect.error.code}: ${effect.error.message}`,
          )
        leg.phase = 'failed'
        leg.unanswered.clear()
        return
      case 'sender.settled':
        this.#check(ended, `settled while ${leg.phase}`)
        for (const write of process.writes) {
          this.#check(
            !write.segments.some(({ reader }) => reader === leg),
            'source pages given back while a write may read them',
          )
        }
        leg.settled = true
        process.legs.delete(leg.id)
        for (const [page, owner] of process.owners.entries())
          if (owner === leg) process.owners[page] = undefined
    }
  }

  /** The host has its turn: pages and a slot, or false. Their bytes are made from the prompt alone. */
  #admit(leg: SenderLeg): boolean {
    const { host, job } = leg
    const needed = Math.ceil(job.tokens / pageTokens)
    if (!hasFree(host.owners, 0, kvPages, needed)) return false
    if (job.withState && !hasFree(host.owners, kvPages, statePages, 1)) return false
    leg.admitted = true
    leg.pages = take(host.owners, 0, kvPages, Math.ceil(job.tokens / pageTokens), leg)
    leg.state = job.withState ? take(host.owners, kvPages, statePages, 1, leg) : new Int32Array()
    for (const [index, page] of leg.pages.entries())
      forEachPage(page, (at, tensor) => {
        host.memory.fill(0, at, at + 8)
        host.memory.set(content(job, index, tensor), at)
      })
    for (const page of leg.state) host.memory.set(content(job, 0, 99), stateOffset(page))
    const { random } = this
    const ranges: (readonly [number, number])[] = random.chance(0.3)
      ? [
          [0, 1],
          [1, 2],
        ]
      : [[0, 2]]
    const todo: SenderLeg['todo'] = []
    for (let start = 0; start < leg.pages.length;) {
      const pages = Math.min(random.between(1, 3), leg.pages.length - start)
      for (const range of ranges) todo.push({ start, pages, layers: range })
      start += pages
    }
    leg.todo = random.chance(0.3) ? random.shuffled(todo) : todo
    return true
  }

  #actSender(leg: SenderLeg): void {
    const { host, random } = { host: leg.host, random: this.random }
    if (leg.phase !== 'reserved') return
    if (!leg.admitted && !this.#admit(leg)) return
    if (leg.job.late && random.chance(0.2))
      this.#stepPrefill(host, { type: 'host.ready', sender: leg.id })
    const next = leg.todo.shift()
    if (next) {
      const write = leg.nextWrite++
      leg.unanswered.add(write)
      const { start, pages, layers: range } = next
      this.#stepPrefill(host, {
        type: 'host.write',
        sender: leg.id,
        write,
        start,
        pages: leg.pages.slice(start, start + pages),
        layers: range,
      })
      return
    }
    leg.phase = 'finishing'
    const state: Record<string, Int32Array> = leg.state.length > 0 ? { mamba: leg.state } : {}
    this.#stepPrefill(host, {
      type: 'host.finish',
      sender: leg.id,
      state,
      aux: { firstToken: Number(leg.job.room % 1000n) },
    })
  }

  // Hosts of decode

  #tellReceiver(
    process: DecodeProcess,
    effect: Extract<DecodeEffect, { request: number; do: `receiver.${string}` }>,
  ): void {
    const leg = process.legs.get(effect.request)
    if (!leg)
      throw new Error(`news for request ${String(effect.request)}, which has settled or never was`)
    this.#log(
      `${process.name} host: ${effect.do} of room ${String(leg.job.room)}${'error' in effect ? ` ${effect.error.code}` : ''}`,
    )
    const ended = leg.phase === 'success' || leg.phase === 'failed'
    switch (effect.do) {
      case 'receiver.accepted':
        this.#check(leg.phase === 'reserving', `accepted while ${leg.phase}`)
        leg.phase = 'accepted'
        return
      case 'receiver.wanted':
        this.#check(leg.phase === 'accepted' && !leg.wanted, `wanted while ${leg.phase}`)
        leg.wanted = true
        return
      case 'receiver.done':
        this.#check(leg.phase === 'accepted', `done while ${leg.phase}`)
        leg.phase = 'success'
        this.#check(
          effect.aux.firstToken === Number(leg.job.room % 1000n),
          'the first token of another request',
        )
        this.#checkBytes(leg)
        return
      case 'receiver.failed':
        this.#check(!ended, `failed while ${leg.phase}`)
        if (leg.job.healthy)
          throw new Error(
            `a request on a healed network failed at decode: ${effect.error.code}: ${effect.error.message}`,
          )
        leg.phase = 'failed'
        return
      case 'receiver.settled':
        this.#check(ended, `settled while ${leg.phase}`)
        leg.settled = true
        process.legs.delete(leg.id)
        // Pages of a success are read for a while by whoever generates; here they are given back at once.
        for (const [page, owner] of process.owners.entries())
          if (owner === leg) process.owners[page] = undefined
    }
  }

  #checkBytes(leg: ReceiverLeg): void {
    const { host, job } = leg
    const prefixPages = job.prefix / pageTokens
    for (const [index, page] of leg.pages.entries()) {
      forEachPage(page, (at, tensor) => {
        const expected = content(job, prefixPages + index, tensor)
        this.#check(
          Buffer.compare(host.memory.subarray(at, at + 8), expected) === 0,
          `success of room ${String(job.room)} without the bytes of its page ${String(index)}`,
        )
      })
    }
    for (const page of leg.state) {
      const at = stateOffset(page)
      this.#check(
        Buffer.compare(host.memory.subarray(at, at + 8), content(job, 0, 99)) === 0,
        'success without the bytes of its state',
      )
    }
  }

  #takeDestination(leg: ReceiverLeg): boolean {
    const { host, job } = leg
    const needed = Math.ceil((job.tokens - job.prefix) / pageTokens)
    if (!hasFree(host.owners, 0, kvPages, needed)) return false
    if (job.withState && !hasFree(host.owners, kvPages, statePages, 1)) return false
    leg.pages = take(host.owners, 0, kvPages, needed, leg, this.random)
    leg.state = job.withState
      ? take(host.owners, kvPages, statePages, 1, leg, this.random)
      : new Int32Array()
    for (const page of leg.pages) forEachPage(page, (at) => host.memory.fill(0xee, at, at + 8))
    for (const page of leg.state) host.memory.fill(0xee, stateOffset(page), stateOffset(page) + 8)
    return true
  }

  #actReceiver(leg: ReceiverLeg): void {
    const { host, job } = leg
    const state = (): Record<string, Int32Array> =>
      leg.state.length > 0 ? { mamba: leg.state } : {}
    if (leg.phase === 'new') {
      if (!job.late && !this.#takeDestination(leg)) return
      leg.phase = 'reserving'
      leg.reserved = true
      this.#stepDecode(host, {
        type: 'host.reserve',
        request: leg.id,
        prefixTokens: job.prefix,
        pages: job.late ? undefined : leg.pages,
        state: job.late ? {} : state(),
      })
    } else if (
      job.late &&
      !leg.provided &&
      (leg.wanted || this.random.chance(0.05)) &&
      (leg.phase === 'accepted' || leg.phase === 'reserving')
    ) {
      if (!this.#takeDestination(leg)) return
      leg.provided = true
      this.#stepDecode(host, {
        type: 'host.provide',
        request: leg.id,
        pages: leg.pages,
        state: state(),
      })
    }
  }

  /** A new request: one leg on each side, in either order, or on one side only. */
  start(healthy = false): void {
    const { random } = this
    const prefill = random.pick(this.#prefills.filter(({ alive }) => alive))
    const decode = random.pick(this.#decodes.filter(({ alive }) => alive))
    if (!prefill || !decode) return
    const tokens = random.between(1, 20)
    const full = Math.floor(tokens / pageTokens)
    const serial = ++this.#serial
    // Few rooms, so that they are used again, also while they live.
    const room = healthy ? BigInt(10_000 + serial) : BigInt(random.between(1, 6))
    const job: Job = {
      room,
      tokens,
      digest: new Uint8Array(16).fill(serial % 251),
      prefix: random.chance(0.3) ? pageTokens * random.between(0, full) : 0,
      late: random.chance(0.3),
      withState: random.chance(0.3),
      healthy,
    }
    const legs = [
      () => this.#startSender(prefill, job),
      () => this.#startReceiver(decode, prefill, job),
    ]
    if (healthy || random.chance(0.9)) for (const leg of random.shuffled(legs)) leg()
    else random.pick(legs)?.()
  }

  #startSender(host: PrefillProcess, job: Job): void {
    const key = roomKey(job.room, 0)
    if (sendObjection(host.state, key)) {
      this.#check(!job.healthy, 'a leg on a healed network was not taken')
      return
    }
    const leg: SenderLeg = {
      id: ++this.#serial,
      job,
      host,
      phase: 'waiting',
      settled: false,
      pages: new Int32Array(),
      state: new Int32Array(),
      todo: [],
      nextWrite: 1,
      unanswered: new Set(),
      admitted: false,
    }
    host.legs.set(leg.id, leg)
    this.#senders.push(leg)
    this.#log(`${host.name} sends room ${String(job.room)}, ${String(job.tokens)} tokens`)
    this.#stepPrefill(host, {
      type: 'host.send',
      sender: leg.id,
      key,
      tokens: job.tokens,
      digest: job.digest,
      deadlines: this.#deadlines,
    })
  }

  #startReceiver(host: DecodeProcess, prefill: PrefillProcess, job: Job): void {
    const key = roomKey(job.room, 0)
    if (receiveObjection(host.state, key)) {
      this.#check(!job.healthy, 'a request on a healed network was not taken')
      return
    }
    const leg: ReceiverLeg = {
      id: ++this.#serial,
      job,
      host,
      phase: 'new',
      settled: false,
      reserved: false,
      provided: false,
      wanted: false,
      pages: new Int32Array(),
      state: new Int32Array(),
    }
    host.legs.set(leg.id, leg)
    this.#receivers.push(leg)
    this.#log(
      `${host.name} receives room ${String(job.room)} from ${prefill.name}, prefix ${String(job.prefix)}${job.late ? ', late' : ''}`,
    )
    this.#stepDecode(host, {
      type: 'host.receive',
      request: leg.id,
      key,
      room: job.room,
      index: 0,
      from: prefill.endpoint,
      tokens: job.tokens,
      digest: job.digest,
      deadlines: this.#deadlines,
    })
  }

  // The engine

  #post(process: PrefillProcess, effect: PrefillEffect & { do: 'post' }): void {
    const to = this.#everyone.find(
      (p): p is DecodeProcess => p.kind === 'decode' && p.state.self.incarnation === effect.peer,
    )
    const planner = process.planners.get(effect.peer)
    if (!to || !planner) throw new Error('a write to a peer that never connected')
    const plan = planner.plan(effect.parts)
    const { random } = this
    const segments: Write['segments'] = []
    expand(plan, (source, destination, bytes) => {
      const sourceOwner = process.owners[pageOf(source)]
      const owner =
        to.alive && effect.generation === to.generation ? to.owners[pageOf(destination)] : undefined
      if (to.alive && effect.generation === to.generation)
        this.#check(owner !== undefined, 'a write was posted to a page of nobody')
      this.#check(sourceOwner !== undefined, 'a write was posted from a page of nobody')
      segments.push({ source, destination, bytes, owner, reader: sourceOwner })
    })
    if (!to.alive || effect.generation !== to.generation) segments.length = 0
    process.writes.push({
      piece: effect.piece,
      from: process,
      to,
      generation: effect.generation,
      epochPeer: effect.peer,
      segments: random.shuffled(segments),
      told: 'no',
      stuck: this.faulty && random.chance(0.05),
    })
  }

  #actEngine(write: Write): void {
    const { from, random } = { from: write.from, random: this.random }
    if (from.frozen) return
    if (write.segments.length > 0 && (write.told !== 'failed' || random.chance(0.5))) {
      const count = random.between(1, write.segments.length)
      for (const segment of write.segments.splice(0, count)) this.#land(write, segment)
      return
    }
    if (write.told === 'no') {
      const fails = this.faulty && random.chance(0.15)
      if (fails || write.segments.length > 0) this.#failWrite(write)
      else {
        write.told = 'done'
        this.#stepPrefill(from, { type: 'piece.done', piece: write.piece })
      }
      return
    }
    if (write.stuck && this.faulty) return
    // What has not landed by now never will.
    write.segments.length = 0
    from.writes.splice(from.writes.indexOf(write), 1)
    this.#stepPrefill(from, { type: 'piece.settled', piece: write.piece })
  }

  #failWrite(write: Write): void {
    this.#log(
      `${write.from.name}: write ${String(write.piece)} is reported as failed, ${String(write.segments.length)} segments may still land`,
    )
    write.told = 'failed'
    this.#stepPrefill(write.from, {
      type: 'piece.failed',
      piece: write.piece,
      error: new KvxError('ERR_KVX_TRANSFER_FAILED', 'the wire broke', { phase: 'transfer' }),
    })
  }

  #land(write: Write, segment: Write['segments'][number]): void {
    const { from, to } = write
    if (!to.alive || write.generation !== to.generation) return
    const owner = to.owners[pageOf(segment.destination)]
    this.#check(
      owner !== undefined && owner === segment.owner,
      `a byte of ${from.name} landed in a page of ${to.name} that was given to another or to nobody`,
    )
    this.#check(owner?.phase !== 'success', 'a byte landed after success')
    this.#check(
      from.owners[pageOf(segment.source)] === segment.reader,
      'a write read a source page that was given to another',
    )
    to.memory.set(
      from.memory.subarray(segment.source, segment.source + segment.bytes),
      segment.destination,
    )
  }

  // Time and chance

  /** One random thing happens. */
  step(): void {
    const { random } = this
    const roll = random.next()
    if (roll < 0.45) this.#deliver()
    else if (roll < 0.65) this.#engine()
    else if (roll < 0.8) this.#hosts()
    else if (roll < 0.87) this.#network()
    else if (roll < 0.9) {
      if (this.faulty) this.start()
    } else if (roll < 0.93) this.#abort()
    else if (roll < 0.945) this.#fault()
    else this.pass(random.chance(0.1) ? random.between(1_000, 8_000) : random.between(1, 400))
  }

  pass(ms: number): void {
    this.now += ms
    for (const process of this.random.shuffled(this.#everyone)) {
      if (!process.alive || process.frozen) continue
      if (process.kind === 'prefill') this.#stepPrefill(process, { type: 'tick' })
      else this.#stepDecode(process, { type: 'tick' })
    }
    for (const prefill of this.#prefills) {
      if (prefill.frozen || !this.faulty) continue
      // The engine's own deadline: `done` always ends.
      for (const write of [...prefill.writes])
        if (write.told === 'no' && this.random.chance(ms / this.#deadlines.transfer))
          this.#failWrite(write)
    }
  }

  #deliver(): void {
    const { random } = this
    const connection = random.pick(
      this.#connections.filter(({ up, down }) => up.length + down.length > 0),
    )
    if (!connection?.to) return
    const { to, decode } = connection
    const upward = connection.down.length === 0 || (connection.up.length > 0 && random.chance(0.5))
    if (upward) {
      if (to.frozen) return
      const message = connection.up.shift()
      if (!message) return
      if (message.k !== 'ping')
        this.#log(
          `${decode.name} → ${to.name}: ${shortly(message)}${'ep' in message ? ` ${String(message.ep)}` : ''}`,
        )
      this.#stepPrefill(to, { type: 'message', connection: connection.id, message })
    } else {
      if (decode.frozen) return
      const message = connection.down.shift()
      if (!message) return
      if (message.k !== 'pong')
        this.#log(
          `${to.name} → ${decode.name}: ${shortly(message)}${'ep' in message ? ` ${String(message.ep)}` : ''}`,
        )
      this.#stepDecode(decode, { type: 'message', endpoint: connection.endpoint, message })
    }
  }

  #engine(): void {
    const write = this.random.pick(this.#prefills.flatMap(({ writes }) => writes))
    if (write) this.#actEngine(write)
    for (const prefill of this.#prefills) {
      if (prefill.recycling && !prefill.frozen && this.random.chance(0.2)) {
        this.#reopenPrefill(prefill)
      }
    }
    for (const decode of this.#decodes) {
      if (!decode.alive || decode.frozen) continue
      if (decode.recycling && this.random.chance(0.2)) this.#reopen(decode)
      for (const writer of decode.fencing) {
        const isGone = !this.#prefills.some((p) => p.alive && p.state.generation === writer)
        if (!isGone || !this.random.chance(0.3)) continue
        decode.fencing.delete(writer)
        this.#log(`${decode.name}: ${writer} is fenced`)
        this.#stepDecode(decode, { type: 'fenced', writer })
      }
    }
  }

  /** Closing the engine settles everything that it had on the way: some of it lands before. */
  #reopenPrefill(prefill: PrefillProcess): void {
    for (const write of [...prefill.writes]) {
      for (const segment of write.segments.splice(0)) {
        if (this.random.chance(0.5)) this.#land(write, segment)
      }
      if (write.told === 'no') this.#failWrite(write)
    }
    for (const { piece } of prefill.writes.splice(0)) {
      this.#stepPrefill(prefill, { type: 'piece.settled', piece })
    }
    prefill.recycling = false
    const generation = name128('W', ++this.#serial)
    this.#log(`${prefill.name} has a new engine`)
    this.#stepPrefill(prefill, { type: 'engine.recycled', generation })
  }

  /** Closing the engine settles everything that was on the way to it. */
  #reopen(decode: DecodeProcess): void {
    decode.recycling = false
    decode.generation = name128('G', ++this.#serial)
    this.#log(`${decode.name} has a new engine`)
    for (const prefill of this.#prefills) {
      for (const write of prefill.writes) if (write.to === decode) write.segments.length = 0
    }
    this.#stepDecode(decode, {
      type: 'engine.recycled',
      engine: {
        generation: decode.generation,
        address: new Uint8Array(1),
        regions: [new Uint8Array(1)],
      },
    })
  }

  #hosts(): void {
    const { random } = this
    const senders = this.#prefills
      .filter(({ frozen }) => !frozen)
      .flatMap(({ legs }) => [...legs.values()])
    const receivers = this.#decodes
      .filter(({ frozen }) => !frozen)
      .flatMap(({ legs }) => [...legs.values()])
    const sender = random.pick(senders)
    if (sender) this.#actSender(sender)
    const receiver = random.pick(receivers)
    if (receiver) this.#actReceiver(receiver)
  }

  /** Bootstraps answer, connections come up, engines connect. */
  #network(): void {
    const { random } = this
    const read =
      this.#reads.length > 0 ? this.#reads[random.between(0, this.#reads.length - 1)] : undefined
    if (read) {
      const { decode, from } = read
      const prefill = this.#prefills.find(({ endpoint, alive }) => endpoint === from && alive)
      if (!decode.alive || decode.frozen) {
        // Nobody listens.
      } else if (!prefill || (this.faulty && random.chance(0.1))) {
        delete read.told
        this.#stepDecode(decode, {
          type: 'source.failed',
          from,
          error: new KvxError('ERR_KVX_BOOTSTRAP_UNREACHABLE', 'nobody'),
        })
      } else {
        const { incarnation, instance } = prefill.state.self
        if (read.told !== incarnation) {
          read.told = incarnation
          this.#stepDecode(decode, {
            type: 'source.read',
            from,
            ranks: [{ endpoint: from, incarnation, instance, rank }],
          })
        }
      }
    }
    for (const connection of this.#connections) {
      if (connection.to || !random.chance(0.5)) continue
      const to = this.#prefills.find(
        ({ endpoint, alive }) => endpoint === connection.endpoint && alive,
      )
      if (!to) continue
      connection.to = to
      connection.id = `c${String(++this.#serial)}`
      this.#stepDecode(connection.decode, { type: 'link.up', endpoint: connection.endpoint })
    }
    const link =
      this.#links.length > 0
        ? this.#links.splice(random.between(0, this.#links.length - 1), 1)[0]
        : undefined
    if (link) {
      const { prefill, peer, generation } = link
      if (this.faulty && random.chance(0.1)) {
        this.#stepPrefill(prefill, {
          type: 'link.failed',
          peer,
          generation,
          error: new KvxError('ERR_KVX_CONNECT_FAILED', 'no route', { phase: 'hello' }),
        })
      } else {
        this.#stepPrefill(prefill, { type: 'link.open', peer, generation })
      }
    }
  }

  #abort(): void {
    if (!this.faulty) return
    const { random } = this
    const sender = random.pick(this.#prefills.flatMap(({ legs }) => [...legs.values()]))
    const receiver = random.pick(this.#decodes.flatMap(({ legs }) => [...legs.values()]))
    if (sender && random.chance(0.3))
      this.#stepPrefill(sender.host, { type: 'host.abort', sender: sender.id, reason: 'prefill' })
    if (receiver && random.chance(0.3))
      this.#stepDecode(receiver.host, {
        type: 'host.abort',
        request: receiver.id,
        reason: 'decode',
      })
  }

  #fault(): void {
    if (!this.faulty) return
    const { random } = this
    const roll = random.next()
    if (roll < 0.5) {
      const connection = random.pick(this.#connections)
      if (connection) this.#disconnect(connection)
    } else if (roll < 0.6) {
      const index = random.between(0, this.#prefills.length - 1)
      const process = this.#prefills[index]
      if (process) this.#kill(process)
      this.#startPrefill(index)
    } else if (roll < 0.7) {
      const index = random.between(0, this.#decodes.length - 1)
      const process = this.#decodes[index]
      if (process) this.#kill(process)
      this.#startDecode(index)
    } else {
      const process = random.pick([...this.#prefills, ...this.#decodes])
      if (process) {
        process.frozen = !process.frozen
        this.#log(`${process.name} is ${process.frozen ? 'frozen' : 'thawed'}`)
      }
    }
  }

  /** Faults stop, what is frozen thaws, everything that was on the way arrives, and time passes until all deadlines are over. */
  heal(): void {
    this.#log('faults stop')
    this.faulty = false
    for (const process of this.#everyone) process.frozen = false
    this.#calm(this.#longest() * 3)
  }

  /** Runs until nothing is under way and `ms` have passed. */
  #calm(ms: number): void {
    const end = this.now + ms
    while (this.now < end) {
      for (let i = 0; i < 40; i++) {
        const roll = this.random.next()
        if (roll < 0.4) this.#deliver()
        else if (roll < 0.6) this.#engine()
        else if (roll < 0.8) this.#hosts()
        else this.#network()
      }
      this.pass(Math.min(900, end - this.now))
    }
  }

  #longest(): number {
    return Math.max(...Object.values(this.#deadlines))
  }

  /** On the healed network: requests one after the other that must all succeed. */
  mustSucceed(count: number): void {
    for (let i = 0; i < count; i++) {
      const before = this.#receivers.length
      this.start(true)
      const receiver = this.#receivers[before]
      for (let tries = 0; tries < 40 && receiver && !receiver.settled; tries++) this.#calm(100)
      this.#check(
        receiver?.phase === 'success',
        `a request on a healed network is ${receiver?.phase ?? 'not there'}`,
      )
      this.#calm(this.#deadlines.ping)
      const sender = this.#senders.at(-1)
      this.#check(sender?.phase === 'success', `its prefill leg is ${sender?.phase ?? 'not there'}`)
    }
  }

  /** Every caller has its answer, every page is free, no table holds anything. */
  checkOver(): void {
    const open = (leg: SenderLeg | ReceiverLeg) =>
      leg.host.alive && (!leg.settled || (leg.phase !== 'success' && leg.phase !== 'failed'))
    for (const leg of [...this.#senders, ...this.#receivers]) {
      // A host that never reserves waits for nothing.
      if ('wanted' in leg && leg.phase === 'new') continue
      this.#check(
        !open(leg),
        `room ${String(leg.job.room)} of ${leg.host.name} has not ended: ${leg.phase}`,
      )
    }
    for (const { state, name, owners } of this.#prefills) {
      const { peers, rooms, ended, senders, pieces } = state
      const counts = {
        rooms: rooms.size,
        ended: ended.size,
        senders: senders.size,
        pieces: pieces.size,
        pages: owners.filter(Boolean).length,
      }
      for (const [what, count] of Object.entries(counts))
        this.#check(count === 0, `${name} still has ${String(count)} ${what}`)
      for (const peer of peers.values()) {
        const left = peer.transfers.size + peer.queue.length + peer.inFlight
        this.#check(left === 0, `${name} still has something of ${peer.instance}`)
        this.#check(
          this.#decodes.some((d) => d.alive && d.state.self.incarnation === peer.incarnation),
          `${name} remembers a dead peer`,
        )
      }
      this.#check(
        state.connections.size <= this.#decodes.length,
        `${name} remembers dead connections`,
      )
    }
    for (const { state, name, owners, legs } of this.#decodes) {
      const idle = [...legs.values()].filter(({ phase }) => phase === 'new').length
      this.#check(
        state.requests.size === idle,
        `${name} still has ${String(state.requests.size - idle)} requests`,
      )
      this.#check(state.rooms.size === idle, `${name} still has rooms`)
      this.#check(
        owners.every((owner) => !owner),
        `${name} still has pages taken`,
      )
      for (const link of state.links.values())
        this.#check(link.legs.size === 0, `${name} still has legs of ${link.endpoint}`)
      for (const source of state.sources.values())
        this.#check(source.requests.size <= idle, `${name} still waits for ${source.from}`)
    }
  }

  counts(): { started: number; succeeded: number; failed: number } {
    const ended = (phase: string) => this.#receivers.filter((leg) => leg.phase === phase).length
    return { started: this.#receivers.length, succeeded: ended('success'), failed: ended('failed') }
  }

  #check(holds: boolean, what: string): void {
    if (!holds) throw new Error(what)
  }

  #log(line: string): void {
    this.trace.push(`${String(this.now)} ${line}`)
  }
}

function hasFree(owners: readonly unknown[], from: number, count: number, needed: number): boolean {
  return owners.slice(from, from + count).filter((owner) => owner === undefined).length >= needed
}

/** Takes free pages of a pool for an owner; their indices count from the beginning of the component. */
function take<T>(
  owners: (T | undefined)[],
  from: number,
  count: number,
  needed: number,
  owner: T,
  random?: Random,
): Int32Array {
  const free = Array.from({ length: count }, (_, i) => i).filter(
    (i) => owners[from + i] === undefined,
  )
  const pages = (random ? random.shuffled(free) : free).slice(0, needed)
  if (pages.length < needed) throw new Error('the pool of the test is too small')
  for (const page of pages) owners[from + page] = owner
  return Int32Array.from(pages)
}

/** Offsets of a kv page in each tensor. */
function forEachPage(page: number, visit: (offset: number, tensor: number) => void): void {
  for (let tensor = 0; tensor < 2 * layers; tensor++) visit((tensor * kvPages + page) * 8, tensor)
}

function stateOffset(page: number): number {
  return (2 * layers * kvPages + page) * 8
}

/** Position in the list of owners of the page that holds a byte of the memory. */
function pageOf(offset: number): number {
  const page = Math.floor(offset / 8)
  return page < 2 * layers * kvPages ? page % kvPages : kvPages + page - 2 * layers * kvPages
}

/** What the model would compute: made of the prompt and the place alone. */
function content(job: Job, page: number, tensor: number): Uint8Array {
  return Uint8Array.from(
    { length: 8 },
    (_, i) => ((job.digest[0] ?? 0) * 31 + job.tokens * 17 + page * 7 + tensor * 3 + i) & 0xff,
  )
}

/** The copies that a plan orders, by the definition of the contract. */
function expand(
  plan: TransferPlan,
  copy: (source: number, destination: number, bytes: number) => void,
): void {
  const { lanes, groups, blocks } = plan
  const at = (list: ArrayLike<number>, index: number) => list[index] ?? 0
  for (let block = 0; block < blocks.length; block += 4) {
    for (let lane = at(blocks, block + 2); lane < at(blocks, block + 3); lane++) {
      const [
        ,
        ,
        sourceBase,
        destinationBase,
        sourcePage,
        destinationPage,
        bytes,
        runs,
        sourceStride,
        destinationStride,
      ] = Array.from(lanes.subarray(lane * laneWidth, (lane + 1) * laneWidth)) as [
        number,
        number,
        number,
        number,
        number,
        number,
        number,
        number,
        number,
        number,
      ]
      for (let group = at(blocks, block); group < at(blocks, block + 1); group++) {
        for (let page = 0; page < at(groups, 3 * group + 2); page++) {
          for (let run = 0; run < runs; run++) {
            copy(
              sourceBase + (at(groups, 3 * group) + page) * sourcePage + run * sourceStride,
              destinationBase +
                (at(groups, 3 * group + 1) + page) * destinationPage +
                run * destinationStride,
              bytes,
            )
          }
        }
      }
    }
  }
}
