/**
 * The hosts: what a model server does with the managers of its ranks. A rank's failure reaches its
 * siblings through their host, which takes the least state of all of them.
 */
import type { DecodeEffect, PrefillEffect } from '@kvx/core/protocol'
import { dpRankOf, receiveObjection, roomKey, sendObjection } from '@kvx/core/protocol'
import { byteOf, components, digestOf, type Component } from './content.ts'
import type { DecodeRank } from './decode.ts'
import { fault } from './faults.ts'
import type { Job, ReceiveLeg, SendLeg } from './legs.ts'
import type { PrefillRank } from './prefill.ts'
import type { World } from './world.ts'

type SenderNews = Extract<PrefillEffect, { do: `sender.${string}` }>
type ReceiverNews = Extract<DecodeEffect, { do: `receiver.${string}` }>

export interface JobOptions {
  readonly prefill: number
  readonly decode: number
  /** Data-parallel rank of decode that the router chose. */
  readonly dp: number
  readonly room: bigint
  readonly tokens: number
  readonly prompt: number
  readonly prefix: number
  readonly late: boolean
  readonly withState: boolean
  readonly healthy: boolean
  readonly sides: 'both' | 'prefill' | 'decode'
  /** Milliseconds by which each leg begins later. */
  readonly sendAfter: number
  readonly receiveAfter: number
}

export function startJob(world: World, options: JobOptions): Job {
  const { room, tokens, prompt, prefix, late, withState, healthy, sides } = options
  const job: Job = {
    id: world.serial(),
    room,
    key: roomKey(room, 0),
    prefill: options.prefill,
    decode: options.decode,
    prompt,
    tokens,
    digest: digestOf(prompt),
    prefix,
    late,
    withState,
    clean: false,
    healthy,
    senders: [],
    receivers: [],
    oneSided: sides !== 'both',
    mask: 0,
    refused: false,
  }
  const senders = world.prefillSlots.filter(
    ({ instance, rank }) => instance === options.prefill && rank.dp === dpRankOf(room, rank.dpSize),
  )
  const receivers = world.decodeSlots.filter(
    ({ instance, rank }) => instance === options.decode && rank.dp === options.dp % rank.dpSize,
  )
  // A room that another request has used gets in its way.
  const others = world.jobs.filter((other) => other.room === room)
  for (const other of others) spoil(other)
  const isHit = world.prefillSlots.some(
    (slot) => slot.instance === options.prefill && slot.hitAt >= 0,
  )
  const isDecodeHit = world.decodeSlots.some(
    (slot) => slot.instance === options.decode && slot.hitAt >= 0,
  )
  job.clean = sides === 'both' && others.length === 0 && !isHit && !isDecodeHit
  world.jobs.push(job)
  const { random } = world
  if (sides !== 'decode') {
    for (const slot of senders) {
      const { process } = slot
      process.later(options.sendAfter + random.between(0, 10), () => startSender(process, job))
    }
  }
  if (sides !== 'prefill') {
    for (const slot of receivers) {
      const { process } = slot
      const from = world.bootstrapOf(options.prefill).from
      process.later(options.receiveAfter + random.between(0, 10), () =>
        startReceiver(process, job, from),
      )
    }
  }
  return job
}

// Prefill

function startSender(host: PrefillRank, job: Job): void {
  const { world } = host
  if (host.draining || sendObjection(host.state, job.key)) {
    refused(world, job)
    return
  }
  const leg: SendLeg = {
    side: 'prefill',
    id: world.serial(),
    job,
    host,
    phase: 'waiting',
    settled: false,
    leases: { kv: undefined, mamba: undefined },
    pages: { kv: new Int32Array(), mamba: new Int32Array() },
    cause: undefined,
    dueAt: Infinity,
    admitted: false,
    todo: [],
    nextWrite: 1,
    unanswered: new Set(),
  }
  job.senders.push(leg)
  host.legs.set(leg.id, leg)
  world.log(() => `${host.name} host: sends room ${job.room}, ${job.tokens} tokens (job ${job.id})`)
  const { pairing } = world.shape.deadlines
  world.checks.expectEnd(leg, 'waiting', pairing)
  host.step({
    type: 'host.send',
    sender: leg.id,
    key: job.key,
    tokens: job.tokens,
    digest: job.digest,
    deadlines: world.shape.deadlines,
  })
  if (job.late && world.random.chance(0.2))
    host.later(world.random.between(0, 40), () => {
      if (!leg.settled) host.step({ type: 'host.ready', sender: leg.id })
    })
}

export function tellSender(host: PrefillRank, news: SenderNews): void {
  const { world } = host
  const leg = host.legs.get(news.sender)
  if (!leg) {
    world.violate(
      'news after the end',
      `${host.name}: ${news.do} for a sender that has settled or never was`,
    )
    return
  }
  world.log(
    () =>
      `${host.name} host: ${news.do} of room ${leg.job.room}${'error' in news ? ` ${news.error.code}: ${news.error.message}` : ''}`,
  )
  world.checks.onSenderNews(leg, news)
  switch (news.do) {
    case 'sender.reserved':
      leg.phase = 'reserved'
      leg.dueAt = Infinity
      workOn(leg)
      return
    case 'sender.posted':
      leg.unanswered.delete(news.write)
      return
    case 'sender.rejected':
      return
    case 'sender.finished':
      leg.phase = 'success'
      leg.dueAt = Infinity
      world.totals.sendersDone++
      return
    case 'sender.failed':
      leg.phase = 'failed'
      leg.dueAt = Infinity
      leg.unanswered.clear()
      leg.cause = news.error
      world.checks.onLegFailed(leg, news.error)
      abortSiblings(world, leg.job)
      return
    case 'sender.settled':
      leg.settled = true
      host.legs.delete(leg.id)
      for (const name of components) giveBack(leg, name)
  }
}

/** The host's next call for this leg, after a while. */
function workOn(
  leg: SendLeg,
  ms = leg.host.world.random.between(1, 40),
  since = leg.host.world.clock.now,
): void {
  const { host } = leg
  const { world } = host
  host.later(ms, () => {
    if (leg.phase !== 'reserved') return
    if (!leg.admitted) {
      if (!admit(leg)) {
        host.step({ type: 'host.queued', sender: leg.id, queued: true })
        // Others may hold the pages for longer than decode has to wait.
        if (world.clock.now - since > 2 * world.shape.deadlines.pairing) spoil(leg.job)
        workOn(leg, world.random.between(30, 120), since)
        return
      }
      const turn = turnAfter(leg)
      if (turn > 0) {
        host.step({ type: 'host.queued', sender: leg.id, queued: true })
        workOn(leg, turn)
        return
      }
    }
    host.step({ type: 'host.queued', sender: leg.id, queued: false })
    if (leg.job.late && world.random.chance(0.2)) host.step({ type: 'host.ready', sender: leg.id })
    const next = leg.todo.shift()
    if (next) {
      const write = leg.nextWrite++
      leg.unanswered.add(write)
      const pages = leg.pages.kv.slice(next.start, next.start + next.pages)
      host.step({
        type: 'host.write',
        sender: leg.id,
        write,
        start: next.start,
        pages,
        layers: next.layers,
      })
      workOn(leg, world.random.chance(0.5) ? 0 : world.random.between(1, 60))
      return
    }
    leg.phase = 'finishing'
    const { progress, transfer, linger, drain, recycle, peerSilent } = world.shape.deadlines
    world.checks.expectEnd(
      leg,
      'finishing',
      progress + 2 * transfer + linger + drain + recycle + peerSilent,
    )
    const state: Record<string, Int32Array> =
      leg.pages.mamba.length > 0 ? { mamba: leg.pages.mamba } : {}
    host.step({ type: 'host.finish', sender: leg.id, state, aux: { firstToken: leg.job.prompt } })
  })
}

/** Of some requests the turn at the model comes later than decode would wait for a silent prefill. */
function turnAfter({ job, host }: SendLeg): number {
  return job.id % 16 === 0 ? host.world.shape.deadlines.progress + 800 : 0
}

/** The leg gets pages and a compute slot; its bytes are made from the prompt alone. */
function admit(leg: SendLeg): boolean {
  const { host, job } = leg
  const { world } = host
  const { pageTokens, layers } = world.shape.model
  const pages = Math.ceil(job.tokens / pageTokens)
  const isStateful = job.withState && host.slot.memory.held.includes('mamba')
  if (!takePages(leg, { kv: pages, mamba: isStateful ? 1 : 0 })) return false
  leg.admitted = true
  fill(leg, 0)
  const { random } = world
  const cut = random.between(1, layers - 1)
  const ranges: (readonly [number, number])[] = random.chance(0.35)
    ? [
        [0, cut],
        [cut, layers],
      ]
    : [[0, layers]]
  for (let start = 0; start < pages;) {
    const count = Math.min(random.between(1, 3), pages - start)
    for (const range of ranges) leg.todo.push({ start, pages: count, layers: range })
    start += count
  }
  if (random.chance(0.3)) random.shuffle(leg.todo)
  return true
}

// Decode

function startReceiver(host: DecodeRank, job: Job, from: string): void {
  const { world } = host
  if (host.draining || receiveObjection(host.state, job.key)) {
    refused(world, job)
    return
  }
  const leg: ReceiveLeg = {
    side: 'decode',
    id: world.serial(),
    job,
    host,
    phase: 'new',
    settled: false,
    leases: { kv: undefined, mamba: undefined },
    pages: { kv: new Int32Array(), mamba: new Int32Array() },
    cause: undefined,
    dueAt: Infinity,
    provided: false,
    wanted: false,
    reserves: [],
    free: undefined,
  }
  job.receivers.push(leg)
  host.legs.set(leg.id, leg)
  world.log(
    () =>
      `${host.name} host: receives room ${job.room} from ${from}, prefix ${job.prefix}${job.late ? ', late' : ''} (job ${job.id})`,
  )
  host.step({
    type: 'host.receive',
    request: leg.id,
    key: job.key,
    room: job.room,
    index: 0,
    from,
    tokens: job.tokens,
    digest: job.digest,
    deadlines: world.shape.deadlines,
  })
  reserveSoon(leg, world.random.chance(0.7) ? 0 : world.random.between(1, 80))
}

function reserveSoon(leg: ReceiveLeg, ms: number, since = leg.host.world.clock.now): void {
  const { host, job } = leg
  const { world } = host
  const go = () => {
    if (leg.phase !== 'new') return
    if (!job.late && !allocate(leg)) {
      // Decode has no pages for it: after a while its host gives it up.
      if (world.clock.now - since > 2 * world.shape.deadlines.pairing) abortLeg(leg, 'no pages')
      else reserveSoon(leg, world.random.between(40, 150), since)
      return
    }
    leg.phase = 'reserving'
    const { hello, reserve } = world.shape.deadlines
    world.checks.expectEnd(leg, 'reserving', hello + reserve)
    host.step({
      type: 'host.reserve',
      request: leg.id,
      prefixTokens: job.prefix,
      pages: job.late ? undefined : leg.pages.kv,
      state: job.late ? {} : stateOf(leg),
    })
    if (job.late && world.random.chance(0.1)) provideSoon(leg, world.random.between(1, 100))
  }
  if (ms === 0) go()
  else host.later(ms, go)
}

function provideSoon(leg: ReceiveLeg, ms: number): void {
  const { host } = leg
  host.later(ms, () => {
    if (leg.provided || (leg.phase !== 'reserving' && leg.phase !== 'accepted')) return
    if (!allocate(leg)) {
      provideSoon(leg, host.world.random.between(40, 150))
      return
    }
    leg.provided = true
    host.step({ type: 'host.provide', request: leg.id, pages: leg.pages.kv, state: stateOf(leg) })
  })
}

export function tellReceiver(host: DecodeRank, news: ReceiverNews): void {
  const { world } = host
  const leg = host.legs.get(news.request)
  if (!leg) {
    world.violate(
      'news after the end',
      `${host.name}: ${news.do} for a request that has settled or never was`,
    )
    return
  }
  world.log(
    () =>
      `${host.name} host: ${news.do} of room ${leg.job.room}${'error' in news ? ` ${news.error.code}: ${news.error.message}` : ''}`,
  )
  world.checks.onReceiverNews(leg, news)
  switch (news.do) {
    case 'receiver.reached':
      return
    case 'receiver.accepted': {
      leg.phase = 'accepted'
      const { pairing, progress } = world.shape.deadlines
      world.checks.expectEnd(leg, 'accepted', pairing + progress)
      return
    }
    case 'receiver.wanted':
      leg.wanted = true
      provideSoon(leg, world.random.between(0, 60))
      return
    case 'receiver.transferring':
    case 'receiver.rejected':
      return
    case 'receiver.done':
      leg.phase = 'success'
      leg.dueAt = Infinity
      world.totals.succeeded++
      return
    case 'receiver.failed':
      leg.phase = 'failed'
      leg.dueAt = Infinity
      world.totals.failed++
      leg.cause = news.error
      world.checks.onLegFailed(leg, news.error)
      quarantine(leg)
      abortSiblings(world, leg.job)
      return
    case 'receiver.settled':
      leg.settled = true
      host.legs.delete(leg.id)
      leg.free?.()
      // Pages of a success are read for a while by whoever generates.
      if (leg.phase === 'success')
        host.later(world.random.chance(0.5) ? 0 : world.random.between(1, 120), () => {
          for (const name of components) giveBack(leg, name)
        })
  }
}

function allocate(leg: ReceiveLeg): boolean {
  const { host, job } = leg
  const { pageTokens } = host.world.shape.model
  const pages = Math.ceil(job.tokens / pageTokens) - Math.floor(job.prefix / pageTokens)
  const isStateful = job.withState && host.slot.memory.held.includes('mamba')
  if (!takePages(leg, { kv: pages, mamba: isStateful ? 1 : 0 })) return false
  for (const name of components)
    for (const page of leg.pages[name])
      for (const at of host.slot.memory.bytesOf[name][page]!) host.memory[at] = 0xee
  return true
}

function stateOf(leg: ReceiveLeg): Record<string, Int32Array> {
  return leg.pages.mamba.length > 0 ? { mamba: leg.pages.mamba } : {}
}

/** Bytes may still land: the pages are free when the request has settled. */
function quarantine(leg: ReceiveLeg): void {
  const free: (() => void)[] = []
  // As `until.then(…)` of a promise, but at once: the world does not wait for microtasks.
  const until = { then: (then: () => void) => free.push(then) } as unknown as Promise<void>
  for (const name of components) leg.leases[name]?.quarantine(until)
  leg.free = () => {
    for (const name of components) {
      leg.host.books[name].disown(leg.pages[name])
      leg.leases[name] = undefined
    }
    for (const end of free) end()
  }
}

// Both

function takePages(leg: SendLeg | ReceiveLeg, counts: Record<Component, number>): boolean {
  const { books } = leg.host
  for (const name of components) {
    const lease = books[name].take(counts[name], leg)
    if (!lease) {
      for (const taken of components) {
        giveBack(leg, taken)
        // It may end without ever getting others: then these belong to somebody else.
        leg.pages[taken] = new Int32Array()
      }
      // To wait for pages is no fault, unless ranks that do not ask together wait for each other.
      const { tpSize, ppSize } = leg.host.slot.rank
      if (leg.side === 'decode' && (leg.job.late || tpSize * ppSize > 1)) spoil(leg.job)
      return false
    }
    leg.leases[name] = lease
    leg.pages[name] = lease.pages.slice()
  }
  return true
}

function giveBack(leg: SendLeg | ReceiveLeg, name: Component): void {
  const lease = leg.leases[name]
  if (!lease) return
  leg.leases[name] = undefined
  const { books, memory, slot } = leg.host
  books[name].disown(leg.pages[name])
  for (const page of leg.pages[name])
    for (const at of slot.memory.bytesOf[name][page]!) memory[at] = 0xdd
  lease.release()
}

/** What the model computes. `first`: page of the prompt that the first page of the leg holds. */
function fill(leg: SendLeg, first: number): void {
  const { memory, slot } = leg.host
  for (const name of components) {
    for (const [index, page] of leg.pages[name].entries()) {
      const number = name === 'kv' ? first + index : 0
      for (const at of slot.memory.bytesOf[name][page]!)
        memory[at] = byteOf(leg.job.prompt, number, slot.memory.placeAt[at]!)
    }
  }
}

export function abortLeg(leg: SendLeg | ReceiveLeg, reason: string): void {
  if (leg.settled || leg.phase === 'success' || leg.phase === 'failed') return
  spoil(leg.job)
  leg.job.mask |= fault.abort
  leg.host.world.log(() => `${leg.host.name} host: aborts room ${leg.job.room}: ${reason}`)
  if (leg.side === 'prefill') leg.host.step({ type: 'host.abort', sender: leg.id, reason })
  else leg.host.step({ type: 'host.abort', request: leg.id, reason })
}

/** One rank has failed: so has the request, and its host ends it on the others. */
export function abortSiblings(world: World, job: Job): void {
  for (const leg of [...job.senders, ...job.receivers]) {
    if (leg.phase === 'failed' || leg.phase === 'success') continue
    const siblings = leg.side === 'prefill' ? job.senders : job.receivers
    if (siblings.length < 2 && !job.oneSided) continue
    leg.host.later(world.random.between(20, 150), () => {
      if (siblings.some(({ phase, host }) => phase === 'failed' || !host.alive))
        abortLeg(leg, 'another rank failed')
    })
  }
}

/** Something happened that may make the request fail. */
export function spoil(job: Job): void {
  job.clean = false
}

/** The manager takes no more requests, or the room is in use. */
function refused(world: World, job: Job): void {
  spoil(job)
  job.refused = true
  abortSiblings(world, job)
}
