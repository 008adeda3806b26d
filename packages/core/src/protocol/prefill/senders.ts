/** The sending leg of a request: what the host asks for, until it ends. */
import { KvxError, type Phase } from '@kvx/contract'
import { pageCount } from '../../layout/index.ts'
import type { PlanPart } from '../../plan/index.ts'
import { hostReason, roomKey } from '../keys.ts'
import { rankName } from '../rank.ts'
import { protocolVersion, packPages, type MessageOf } from '../messages.ts'
import { Coverage } from './coverage.ts'
import { enqueue, landedPages, pump } from './pieces.ts'
import { peerName, tell } from './send.ts'
import type { Peer, PrefillEvent, PrefillState, PrefillStep, Sender, Transfer } from './state.ts'
import { checkPrompts, failTransfer, forgetIfOver, onPages, pair, roomOf } from './transfers.ts'

/** Why a new leg cannot be taken, or undefined. */
export function sendObjection(state: PrefillState, key: string): KvxError | undefined {
  if (state.broken) return state.broken
  if (state.rooms.get(key)?.sender) {
    return new KvxError(
      'ERR_KVX_ROOM_IN_USE',
      `Room ${key} already belongs to a running request.`,
      { phase: 'reserve' },
    )
  }
  if (state.senders.size >= state.self.limits.requests) {
    return new KvxError(
      'ERR_KVX_OVER_LIMIT',
      `${String(state.senders.size)} requests are already running here.`,
      { phase: 'reserve' },
    )
  }
  return undefined
}

export function onSend(step: PrefillStep, event: PrefillEvent & { type: 'host.send' }): void {
  const { state } = step
  const pages = Math.ceil(event.tokens / state.self.layout.pageTokens)
  const sender: Sender = {
    id: event.sender,
    key: event.key,
    tokens: event.tokens,
    digest: event.digest,
    pages,
    deadlines: event.deadlines,
    phase: 'waiting',
    deadline: step.now + event.deadlines.pairing,
    queueEnd: step.now + event.deadlines.queue,
    queuedBy: undefined,
    queued: false,
    targets: [],
    wantsPages: false,
    prefixPages: 0,
    coverage: new Coverage(pages, state.self.kvLayers),
    chunks: 0,
    writes: new Map(),
    unsettled: 0,
    last: undefined,
    error: undefined,
    settledTold: false,
  }
  state.senders.set(sender.id, sender)
  state.ended.delete(sender.key)
  const room = roomOf(step, sender.key)
  room.sender = sender
  if (checkPrompts(step, room, sender)) pair(step, room)
}

/** A wrong call of the host changes nothing: the right one may follow. */
function reject(step: PrefillStep, sender: Sender, error: KvxError): void {
  step.out.push({ do: 'sender.rejected', sender: sender.id, error })
}

export function onReady(step: PrefillStep, id: number): void {
  const sender = step.state.senders.get(id)
  if (!sender || sender.error) return
  sender.wantsPages = true
  for (const target of sender.targets) askForPages(step, target)
}

export function onHostQueued(step: PrefillStep, id: number, queued: boolean): void {
  const sender = step.state.senders.get(id)
  if (sender) sender.queued = queued
}

/** Decode lives, and these requests wait for their turn there: so do their legs here. */
export function onQueued(step: PrefillStep, peer: Peer, message: MessageOf<'queued'>): void {
  for (const [number, index] of message.rooms) {
    const room = step.state.rooms.get(roomKey(number, index))
    const { sender } = room ?? {}
    if (room === undefined || sender?.phase !== 'waiting') continue
    sender.queuedBy = peer
    sender.deadline = Math.min(step.now + sender.deadlines.pairing, sender.queueEnd)
    for (const transfer of room.transfers) {
      if (transfer.phase !== 'parked' || transfer.peer.instance !== peer.instance) continue
      transfer.deadline = Math.max(transfer.deadline, sender.deadline)
    }
  }
}

/** With a decode rank everything is lost that was queued there. */
export function failQueued(step: PrefillStep, peer: Peer, error: KvxError): void {
  for (const sender of [...step.state.senders.values()])
    if (sender.phase === 'waiting' && sender.queuedBy === peer) failSender(step, sender, error)
}

export function askForPages(step: PrefillStep, target: Transfer): void {
  if (target.pages || target.asked || target.phase !== 'paired') return
  target.asked = true
  target.deadline = step.now + step.state.self.deadlines.progress
  tell(step, target, { k: 'ready' })
}

export function onWrite(step: PrefillStep, event: PrefillEvent & { type: 'host.write' }): void {
  const sender = step.state.senders.get(event.sender)
  if (!sender) return
  const layers = event.layers ?? [0, step.state.self.layout.layers]
  const wrong = writeObjection(step, sender, event.start, event.pages, layers)
  if (wrong) {
    reject(step, sender, wrong)
    return
  }
  let pieces = 0
  for (const target of sender.targets) {
    const from = Math.max(event.start, target.prefixPages)
    const sourcePages = event.pages.subarray(from - event.start)
    const shared = target.peer.kvLayers.filter((l) => l >= layers[0] && l < layers[1]).length
    if (sourcePages.length === 0 || shared === 0) continue
    pieces++
    const bytes = sourcePages.length * target.peer.planner.bytesPerPage('kv', layers)
    enqueue(step, {
      transfer: target,
      sender,
      write: event.write,
      bytes,
      moved: [{ component: 'kv', pages: sourcePages.length * shared, bytes }],
      parts: () => [kvPart(target, from, sourcePages, layers)],
    })
    askForPages(step, target)
  }
  if (pieces === 0) {
    step.out.push({ do: 'sender.posted', sender: sender.id, write: event.write })
    return
  }
  sender.chunks++
  sender.queued = false
  sender.writes.set(event.write, pieces)
  for (const target of sender.targets) pump(step, target.peer)
}

function kvPart(
  target: Transfer,
  from: number,
  sourcePages: Int32Array,
  layers: readonly [number, number],
): PlanPart {
  const first = from - target.prefixPages
  const destinationPages = (target.pages ?? new Int32Array()).subarray(
    first,
    first + sourcePages.length,
  )
  return { component: 'kv', layers, sourcePages, destinationPages }
}

/** Marks the pages as written when there is no objection. */
function writeObjection(
  step: PrefillStep,
  sender: Sender,
  start: number,
  pages: Int32Array,
  layers: readonly [number, number],
): KvxError | undefined {
  const { layout } = step.state.self
  if (sender.error) return sender.error
  if (sender.phase !== 'paired') {
    return new KvxError(
      'ERR_KVX_INVALID_STATE',
      `write() of room ${sender.key} while it is ${sender.phase}: await reserved() first, and call it before finish().`,
    )
  }
  const invalid = (text: string) =>
    new KvxError('ERR_KVX_INVALID_ARGUMENT', `write() of room ${sender.key}: ${text}`)
  if (!Number.isSafeInteger(start) || start < 0 || start + pages.length > sender.pages) {
    return invalid(
      `pages ${String(start)} to ${String(start + pages.length)} are not within the ${String(sender.pages)} pages of the prompt.`,
    )
  }
  if (!(
    Number.isSafeInteger(layers[0]) &&
    Number.isSafeInteger(layers[1]) &&
    layers[0] >= 0 &&
    layers[0] < layers[1] &&
    layers[1] <= layout.layers
  )) {
    return invalid(
      `layers ${String(layers[0])} to ${String(layers[1])} are not within the model's ${String(layout.layers)} layers.`,
    )
  }
  if (pages.some((page) => page < 0 || page >= (layout.pages.kv ?? 0))) {
    return invalid(`a page index is outside of this side's ${String(layout.pages.kv ?? 0)} pages.`)
  }
  const text = sender.coverage.add(start, pages, layers, sender.prefixPages)
  return text === undefined ? undefined : invalid(text)
}

export function onProvided(
  step: PrefillStep,
  peer: Transfer['peer'],
  message: Parameters<typeof onPages>[2],
): void {
  const transfer = onPages(step, peer, message)
  if (!transfer) return
  const sender = step.state.rooms.get(transfer.key)?.sender
  if (sender?.last && sender.targets.includes(transfer)) {
    const wrong = stateObjection(transfer, sender.last.state)
    if (wrong) {
      failSender(step, sender, invalidFinish(sender, wrong))
      return
    }
  }
  pump(step, peer)
  // When decode holds the whole prompt as prefix, the pages were all that was waited for.
  if (sender) finishIfLanded(step, sender)
}

export function onFinish(step: PrefillStep, event: PrefillEvent & { type: 'host.finish' }): void {
  const sender = step.state.senders.get(event.sender)
  if (!sender || sender.error) return
  const wrong = finishObjection(step, sender, event)
  if (wrong) {
    reject(step, sender, wrong)
    return
  }
  sender.phase = 'finishing'
  sender.last = { state: event.state, aux: event.aux }
  for (const target of sender.targets) {
    const components = Object.keys(event.state).filter((name) => isShared(target, name))
    if (components.length > 0) {
      const moved = components.map((component) => {
        const pages = event.state[component]?.length ?? 0
        return { component, pages, bytes: pages * target.peer.planner.bytesPerPage(component) }
      })
      enqueue(step, {
        transfer: target,
        sender,
        write: 0,
        bytes: moved.reduce((sum, { bytes }) => sum + bytes, 0),
        moved,
        parts: () =>
          components.map((component) => ({
            component,
            sourcePages: event.state[component] ?? new Int32Array(),
            destinationPages: target.state[component] ?? new Int32Array(),
          })),
      })
    }
    askForPages(step, target)
    pump(step, target.peer)
  }
  finishIfLanded(step, sender)
}

function finishObjection(
  step: PrefillStep,
  sender: Sender,
  event: PrefillEvent & { type: 'host.finish' },
): KvxError | undefined {
  const invalid = (text: string) => invalidFinish(sender, text)
  if (sender.phase !== 'paired') {
    return new KvxError(
      'ERR_KVX_INVALID_STATE',
      `finish() of room ${sender.key} while it is ${sender.phase}: await reserved() first, and call it once.`,
    )
  }
  const missing = sender.coverage.firstMissing(sender.prefixPages)
  if (missing)
    return invalid(
      `page ${String(missing.page)} of layer ${String(missing.layer)} was never written.`,
    )
  const { auxBytes } = step.state.self.limits
  if ((event.aux.blob?.byteLength ?? 0) > auxBytes) {
    return invalid(
      `the aux blob of ${String(event.aux.blob?.byteLength)} bytes is larger than the agreed ${String(auxBytes)}.`,
    )
  }
  for (const [name, pages] of Object.entries(event.state)) {
    if (name === 'kv' || !sender.targets.some((target) => isShared(target, name)))
      return invalid(`there is no state component '${name}' that both sides hold.`)
    const held = pageCount(step.state.self.layout, name)
    if (pages.some((page) => page < 0 || page >= held)) {
      return invalid(
        `a page of state component '${name}' is outside of this side's ${String(held)} pages.`,
      )
    }
  }
  for (const target of sender.targets) {
    const wrong = target.pages && stateObjection(target, event.state)
    if (wrong) return invalid(wrong)
  }
  return undefined
}

/** Whether decode reserved what is given, once its pages are known. */
function stateObjection(
  target: Transfer,
  state: Readonly<Record<string, Int32Array>>,
): string | undefined {
  for (const name of new Set([...Object.keys(state), ...Object.keys(target.state)])) {
    if (!isShared(target, name)) continue
    const given = state[name]?.length ?? 0
    const wanted = target.state[name]?.length ?? 0
    if (given !== wanted)
      return `${String(given)} pages of state component '${name}' are given, and decode reserved ${String(wanted)}.`
  }
  return undefined
}

/** Another pipeline stage may hold it instead. */
function isShared(target: Transfer, component: string): boolean {
  return target.peer.planner.lanes.components.has(component)
}

function invalidFinish(sender: Sender, text: string): KvxError {
  return new KvxError('ERR_KVX_INVALID_ARGUMENT', `finish() of room ${sender.key}: ${text}`, {
    phase: 'complete',
  })
}

/** After the last byte of every decode rank has landed: checksums where wanted, then `complete`. */
export function finishIfLanded(step: PrefillStep, sender: Sender): void {
  if (sender.phase !== 'finishing') return
  if (sender.unsettled > 0 || sender.targets.some((t) => !t.pages)) return
  sender.phase = 'completing'
  sender.deadline = step.now + sender.deadlines.linger
  for (const target of sender.targets) {
    if (target.checksums && isShared(target, 'kv')) {
      step.out.push({
        do: 'checksum',
        sender: sender.id,
        peer: target.peer.incarnation,
        epoch: target.epoch,
        planner: target.peer.planner,
        pages: sender.coverage.sources.subarray(target.prefixPages),
      })
    } else {
      complete(step, sender, target, undefined)
    }
  }
}

export function onChecksums(step: PrefillStep, event: PrefillEvent & { type: 'checksums' }): void {
  const sender = step.state.senders.get(event.sender)
  const target = sender?.targets.find(
    (t) => t.epoch === event.epoch && t.peer.incarnation === event.peer,
  )
  if (sender?.phase !== 'completing' || target?.phase !== 'paired') return
  complete(step, sender, target, event.checksums)
}

export function onChecksumsFailed(step: PrefillStep, id: number, error: KvxError): void {
  const sender = step.state.senders.get(id)
  if (sender) failSender(step, sender, error)
}

function complete(
  step: PrefillStep,
  sender: Sender,
  target: Transfer,
  checksums: Uint32Array | undefined,
): void {
  const { self } = step.state
  const parts = Object.fromEntries(
    Object.entries(target.landed).map(([component, { units, bytes }]) => [
      component,
      { pages: component === 'kv' ? units / target.peer.kvLayers.length : units, bytes },
    ]),
  )
  target.phase = 'complete'
  target.deadline = step.now + sender.deadlines.linger
  target.outcome = {
    v: protocolVersion,
    k: 'complete',
    from: self.incarnation,
    to: target.peer.incarnation,
    gen: target.generation,
    ep: target.epoch,
    manifest: {
      parts,
      chunks: sender.chunks,
      ms: target.airtime.ms,
      ...(checksums === undefined
        ? {}
        : {
            checksums: packPages(
              new Int32Array(checksums.buffer, checksums.byteOffset, checksums.length),
            ),
          }),
    },
    aux: sender.last?.aux ?? {},
  }
  step.out.push({ do: 'send', connection: target.peer.connection, message: target.outcome })
}

export function onAcked(step: PrefillStep, sender: Sender): void {
  if (
    sender.phase !== 'completing' ||
    !sender.targets.every((t) => t.phase === 'complete' && t.acked)
  )
    return
  sender.phase = 'success'
  remember(step, sender, undefined)
  const landed = sender.targets.map((target) =>
    Object.values(target.landed).reduce((sum, { bytes }) => sum + bytes, 0),
  )
  step.out.push({
    do: 'sender.finished',
    sender: sender.id,
    summary: {
      pages: Math.max(...sender.targets.map(landedPages)),
      bytes: landed.reduce((sum, bytes) => sum + bytes, 0),
      chunks: sender.chunks,
      ms: Math.max(...sender.targets.map(({ airtime }) => airtime.ms)),
    },
  })
  release(step, sender)
}

export function onHostAbort(step: PrefillStep, id: number, reason: unknown): void {
  const sender = step.state.senders.get(id)
  if (!sender) return
  const { instance, rank } = step.state.self
  const where = { phase: phaseOf(sender), peer: instance, rank: rankName(rank) }
  failSender(step, sender, hostReason(reason, where))
}

/** Ends a request that has not ended, with its first cause, on all of its decode ranks. */
export function failSender(step: PrefillStep, sender: Sender, error: KvxError): void {
  if (sender.phase === 'success' || sender.phase === 'failed') return
  const wasWaiting = sender.phase === 'waiting'
  sender.phase = 'failed'
  sender.error = error
  step.out.push({ do: 'sender.failed', sender: sender.id, error })
  remember(step, sender, error)
  for (const target of sender.targets) failTransfer(step, target, error)
  const room = step.state.rooms.get(sender.key)
  if (wasWaiting && room) {
    for (const transfer of [...room.transfers])
      if (transfer.phase === 'parked') failTransfer(step, transfer, error)
  }
  release(step, sender)
}

/** Of too many the oldest is forgotten. */
function remember(step: PrefillStep, sender: Sender, error: KvxError | undefined): void {
  const { ended, self } = step.state
  const [oldest] = ended.keys()
  if (oldest !== undefined && ended.size >= self.limits.requests) ended.delete(oldest)
  ended.set(sender.key, { error, until: step.now + sender.deadlines.linger })
}

/** The room is free for the next request; the sender stays until nothing reads its pages any more. */
function release(step: PrefillStep, sender: Sender): void {
  const room = step.state.rooms.get(sender.key)
  if (room?.sender === sender) {
    room.sender = undefined
    if (room.transfers.size === 0) step.state.rooms.delete(sender.key)
  }
  for (const target of sender.targets) forgetIfOver(step, target)
  tellSettled(step, sender)
}

export function tellSettled(step: PrefillStep, sender: Sender): void {
  if (sender.unsettled > 0 || sender.settledTold) return
  if (sender.phase !== 'success' && sender.phase !== 'failed') return
  sender.settledTold = true
  step.state.senders.delete(sender.id)
  step.out.push({ do: 'sender.settled', sender: sender.id })
}

export function watchSenders(step: PrefillStep): void {
  const { state, now } = step
  for (const [key, { until }] of state.ended) if (now >= until) state.ended.delete(key)
  for (const sender of [...state.senders.values()]) {
    if (now < sender.deadline) continue
    if (sender.phase === 'waiting') {
      failSender(step, sender, neverReserved(step, sender))
    } else if (sender.phase === 'completing') {
      const silent = sender.targets.find((t) => !t.acked)
      failSender(
        step,
        sender,
        new KvxError(
          'ERR_KVX_TIMEOUT',
          `Decode did not acknowledge room ${sender.key} within ${String(sender.deadlines.linger)} ms.`,
          {
            phase: 'complete',
            peer: silent?.peer.instance,
            ...(silent ? { rank: rankName(silent.peer.rank) } : {}),
          },
        ),
      )
    }
  }
}

function neverReserved(step: PrefillStep, sender: Sender): KvxError {
  const { key, queuedBy, queueEnd, deadlines } = sender
  if (queuedBy === undefined) {
    return new KvxError(
      'ERR_KVX_TIMEOUT',
      `Room ${key} waited ${String(deadlines.pairing)} ms for decode to reserve pages. Is decode running, and was it sent the same room?`,
      { phase: 'reserve' },
    )
  }
  const text =
    step.now >= queueEnd
      ? `had room ${key} in its queue for ${String(deadlines.queue)} ms.`
      : `had room ${key} in its queue, and has said nothing of it for ${String(deadlines.pairing)} ms.`
  return new KvxError('ERR_KVX_TIMEOUT', `${peerName(queuedBy)} ${text}`, {
    phase: 'reserve',
    peer: queuedBy.instance,
    rank: rankName(queuedBy.rank),
  })
}

function phaseOf(sender: Sender): Phase {
  return sender.phase === 'waiting'
    ? 'reserve'
    : sender.phase === 'completing'
      ? 'complete'
      : 'transfer'
}
