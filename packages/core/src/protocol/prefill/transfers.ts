/** The life of one reserve of one decode rank: parked, paired, complete or failed, drained, forgotten. */
import { KvxError, type ErrorCode } from '@kvx/contract'
import { pageCount } from '../../layout/index.ts'
import {
  count,
  failureFields,
  noNewRequests,
  sameBytes,
  toldError,
  type Draining,
} from '../keys.ts'
import { rankName, sameRank } from '../rank.ts'
import { protocolVersion, unpackPages, unpackState, type MessageOf } from '../messages.ts'
import { servedDecodeRanks } from '../topology.ts'
import { dropPieces, landedPages } from './pieces.ts'
import { peerName, refuse, sendTo, tell } from './send.ts'
import { askForPages, failSender, onAcked } from './senders.ts'
import type { Peer, PrefillState, PrefillStep, Room, Sender, Transfer } from './state.ts'

export function onReserve(
  step: PrefillStep,
  peer: Peer,
  message: MessageOf<'reserve'>,
  key: string,
): void {
  const { state, now } = step
  const live = peer.transfers.get(message.ep)
  if (live) {
    onQuery(step, peer, message.ep)
    return
  }
  const stale = message.ep <= peer.watermark
  peer.watermark = Math.max(peer.watermark, message.ep)
  const say = (code: ErrorCode, text: string) =>
    new KvxError(code, text, {
      phase: 'reserve',
      peer: state.self.instance,
      rank: rankName(state.self.rank),
    })
  const error = stale
    ? say('ERR_KVX_STALE', `Epoch ${String(message.ep)} is over.`)
    : objection(step, peer, message, key, say)
  if (error) {
    refuse(step, peer, message.gen, message.ep, error)
    const sender = state.rooms.get(key)?.sender
    if (error.code === 'ERR_KVX_PROMPT_MISMATCH' && sender?.phase === 'waiting') {
      failSender(step, sender, error)
    }
    return
  }
  const { pageTokens } = state.self.layout
  const room = roomOf(step, key)
  const transfer: Transfer = {
    peer,
    epoch: message.ep,
    generation: message.gen,
    key,
    tokens: message.tokens,
    digest: message.digest,
    prefixPages: Math.floor(message.prefix / pageTokens),
    prefixTokens: message.prefix,
    checksums: message.checksums,
    consumed: state.ended.has(key),
    pages: message.pages === undefined ? undefined : unpackPages(message.pages),
    state: unpackState(message.state),
    phase: 'parked',
    deadline: now + state.self.deadlines.pairing,
    asked: false,
    landed: {},
    unsettled: 0,
    outcome: undefined,
    acked: false,
    drainedSent: false,
    airtime: { posted: 0, since: 0, ms: 0 },
  }
  peer.transfers.set(message.ep, transfer)
  room.transfers.add(transfer)
  if (!pair(step, room))
    tell(step, transfer, { k: 'accept', state: 'parked', ...consumedField(transfer) })
}

function objection(
  step: PrefillStep,
  peer: Peer,
  message: MessageOf<'reserve'>,
  key: string,
  say: (code: ErrorCode, text: string) => KvxError,
): KvxError | undefined {
  const { state } = step
  const { self } = state
  const ended = state.ended.get(key)
  if (ended?.error) return ended.error
  const room = state.rooms.get(key)
  for (const other of room?.transfers ?? []) {
    if (
      other.peer.instance === peer.instance &&
      sameRank(other.peer.rank, peer.rank) &&
      other.phase !== 'failed'
    ) {
      return say('ERR_KVX_ROOM_IN_USE', `Room ${key} already has a reserve of ${peerName(peer)}.`)
    }
  }
  const sender = room?.sender
  if (state.draining && !sender) return drainingError(step)
  if (sender && sender.phase !== 'waiting') {
    return say('ERR_KVX_ROOM_IN_USE', `Room ${key} already belongs to a running request.`)
  }
  if (sender && (sender.tokens !== message.tokens || !sameBytes(sender.digest, message.digest))) {
    return say(
      'ERR_KVX_PROMPT_MISMATCH',
      `Prefill and decode were given different prompts for room ${key}.`,
    )
  }
  const { pageTokens, pages } = self.layout
  if (message.prefix % pageTokens !== 0 || message.prefix > message.tokens) {
    return say(
      'ERR_KVX_PROTOCOL',
      `The prefix of ${String(message.prefix)} tokens is no whole number of pages of the prompt.`,
    )
  }
  if (Math.ceil(message.tokens / pageTokens) > (pages.kv ?? 0)) {
    return say(
      'ERR_KVX_INVALID_ARGUMENT',
      `The prompt of ${String(message.tokens)} tokens does not fit into prefill's ${String(pages.kv ?? 0)} pages.`,
    )
  }
  const wrong =
    message.pages &&
    pagesObjection(peer, message.tokens - message.prefix, pageTokens, unpackPages(message.pages))
  if (wrong) return say('ERR_KVX_PAGES_INVALID', wrong)
  const wrongState = stateObjection(peer, message.state)
  if (wrongState) return say('ERR_KVX_PAGES_INVALID', wrongState)
  // Failures that are not acknowledged count as well: they are remembered for the linger.
  let idle = 0
  for (const { phase } of peer.transfers.values()) {
    if (phase === 'parked' || phase === 'failed') idle++
  }
  if (!sender && idle >= self.limits.parkedPerPeer) {
    return say(
      'ERR_KVX_OVER_LIMIT',
      `${String(idle)} reserves of ${peerName(peer)} already wait for their prefill leg, or for being acknowledged.`,
    )
  }
  return undefined
}

function pagesObjection(
  peer: Peer,
  tokens: number,
  pageTokens: number,
  pages: Int32Array,
): string | undefined {
  const needed = Math.ceil(tokens / pageTokens)
  if (pages.length !== needed)
    return `The reserve names ${String(pages.length)} pages; ${String(needed)} are needed.`
  return boundsObjection(peer, 'kv', pages)
}

function stateObjection(
  peer: Peer,
  state: Record<string, Uint8Array> | undefined,
): string | undefined {
  for (const [component, packed] of Object.entries(state ?? {})) {
    if (component === 'kv') return "'kv' is no state component."
    const wrong = boundsObjection(peer, component, unpackPages(packed))
    if (wrong) return wrong
  }
  return undefined
}

/** Two copies of one destination would overwrite each other. */
function boundsObjection(peer: Peer, component: string, pages: Int32Array): string | undefined {
  const count = pageCount(peer.layout, component)
  if (pages.some((page) => page < 0 || page >= count)) {
    return `A page index of component ${component} is outside of the ${String(count)} pages that ${peerName(peer)} has.`
  }
  if (new Set(pages).size !== pages.length)
    return `A page of component ${component} is named twice.`
  return undefined
}

/** Reserves without their prefill leg will not get one any more. */
export function onDrain(step: PrefillStep, { replaced }: Draining): void {
  step.state.draining = { replaced }
  for (const room of [...step.state.rooms.values()]) {
    if (room.sender) continue
    for (const transfer of [...room.transfers]) {
      if (transfer.phase === 'parked') failTransfer(step, transfer, drainingError(step))
    }
  }
}

function drainingError({ state: { self, draining } }: PrefillStep): KvxError {
  const who = `prefill ${self.instance} (${rankName(self.rank)})`
  return new KvxError('ERR_KVX_DRAINING', noNewRequests(who, draining), {
    phase: 'reserve',
    peer: self.instance,
    rank: rankName(self.rank),
    cause: draining?.replaced,
  })
}

/** Pairs the room when its prefill leg and all decode ranks that this rank serves are here. */
export function pair(step: PrefillStep, room: Room): boolean {
  const { state } = step
  const { sender } = room
  if (sender?.phase !== 'waiting' || state.recycle) return false
  for (const first of room.transfers) {
    if (first.phase !== 'parked' || first.peer.link !== 'open') continue
    const served = servedDecodeRanks(state.self.rank, first.peer.rank, state.self.layout.heads)
    const targets = served.map((rank) =>
      [...room.transfers].find(
        (t) =>
          t.phase === 'parked' &&
          t.peer.link === 'open' &&
          t.peer.instance === first.peer.instance &&
          sameRank(t.peer.rank, rank),
      ),
    )
    if (!targets.every((t) => t !== undefined)) continue
    for (const target of targets) {
      target.phase = 'paired'
      target.deadline = Infinity
      tell(step, target, { k: 'accept', state: 'paired' })
      if (sender.wantsPages) askForPages(step, target)
    }
    sender.phase = 'paired'
    sender.deadline = Infinity
    sender.targets = targets
    sender.prefixPages = Math.min(...targets.map((t) => t.prefixPages))
    step.out.push({
      do: 'sender.reserved',
      sender: sender.id,
      prefixTokens: Math.min(...targets.map((t) => t.prefixTokens)),
    })
    return true
  }
  return false
}

/** Fails parked reserves of another prompt: the legs of this room do not belong together. */
export function checkPrompts(step: PrefillStep, room: Room, sender: Sender): boolean {
  for (const transfer of room.transfers) {
    if (transfer.phase !== 'parked') continue
    if (transfer.tokens === sender.tokens && sameBytes(transfer.digest, sender.digest)) continue
    const error = new KvxError(
      'ERR_KVX_PROMPT_MISMATCH',
      `Prefill and decode were given different prompts for room ${room.key}.`,
      { phase: 'reserve', peer: transfer.peer.instance, rank: rankName(transfer.peer.rank) },
    )
    failTransfer(step, transfer, error)
    failSender(step, sender, error)
    return false
  }
  return true
}

export function onPages(
  step: PrefillStep,
  peer: Peer,
  message: MessageOf<'pages'>,
): Transfer | undefined {
  const transfer = seen(peer, message.ep)
  if (!transfer || transfer.pages || (transfer.phase !== 'parked' && transfer.phase !== 'paired')) {
    count(step.state.dropped, 'pages not wanted')
    return undefined
  }
  const pages = unpackPages(message.pages)
  const { pageTokens } = step.state.self.layout
  const wrong =
    pagesObjection(peer, transfer.tokens - transfer.prefixTokens, pageTokens, pages) ??
    stateObjection(peer, message.state)
  if (wrong) {
    failTransfer(
      step,
      transfer,
      new KvxError('ERR_KVX_PAGES_INVALID', wrong, { phase: 'reserve', peer: peer.instance }),
    )
    return undefined
  }
  transfer.pages = pages
  if (transfer.phase === 'paired') transfer.deadline = Infinity
  if (message.state) transfer.state = unpackState(message.state)
  return transfer
}

/** Where is this epoch? Also the answer to a repeated reserve. */
export function onQuery(step: PrefillStep, peer: Peer, epoch: number): void {
  const transfer = seen(peer, epoch)
  sendTo(step, peer, {
    k: 'status',
    gen: peer.generation,
    ep: epoch,
    state: transfer?.phase ?? 'over',
    pages: transfer ? landedPages(transfer) : 0,
    ...consumedField(transfer),
    ...(isQueued(step, transfer) ? { queued: true } : {}),
    ...(transfer?.outcome === undefined ? {} : { outcome: transfer.outcome }),
  })
  if (transfer?.drainedSent) tell(step, transfer, { k: 'drained' })
  if (transfer?.phase === 'paired' && transfer.asked && !transfer.pages)
    tell(step, transfer, { k: 'ready' })
}

function consumedField(transfer: Transfer | undefined) {
  return transfer?.phase === 'parked' && transfer.consumed ? { consumed: true } : {}
}

/** Whether what this decode rank waits for is its turn here, or that of another decode rank there. */
function isQueued(step: PrefillStep, transfer: Transfer | undefined): boolean {
  const sender = transfer && step.state.rooms.get(transfer.key)?.sender
  if (transfer?.phase === 'parked') return sender?.queuedBy !== undefined
  return transfer?.phase === 'paired' && sender?.queued === true
}

/** Says again what decode has not acknowledged. */
export function repeatOutcome(step: PrefillStep, transfer: Transfer): void {
  if (!transfer.outcome || transfer.acked || !isReachable(transfer)) return
  step.out.push({ do: 'send', connection: transfer.peer.connection, message: transfer.outcome })
  if (transfer.drainedSent) tell(step, transfer, { k: 'drained' })
}

/** Whether a decode rank that is connected has not acknowledged a failure yet. */
export function isFailureUnheard({ peers, connections }: PrefillState): boolean {
  for (const peer of peers.values()) {
    if (connections.get(peer.connection) !== peer.incarnation) continue
    for (const transfer of peer.transfers.values()) {
      if (transfer.phase === 'failed' && !transfer.acked && isReachable(transfer)) return true
    }
  }
  return false
}

/** Whether decode would listen to something about this transfer. */
function isReachable({ peer, generation }: Transfer): boolean {
  return peer.link !== 'lost' && peer.generation === generation
}

export function onAbort(step: PrefillStep, peer: Peer, message: MessageOf<'abort'>): void {
  const transfer = seen(peer, message.ep)
  if (!transfer || (transfer.phase === 'complete' && transfer.acked)) {
    sendTo(step, peer, { k: 'drained', gen: message.gen, ep: message.ep })
    return
  }
  if (transfer.phase === 'failed') {
    transfer.acked = true
    if (transfer.drainedSent) tell(step, transfer, { k: 'drained' })
    drain(step, transfer)
    return
  }
  const phase =
    transfer.phase === 'parked' ? 'parked' : transfer.phase === 'complete' ? 'complete' : 'transfer'
  failTransfer(
    step,
    transfer,
    toldError(message, { instance: peer.instance, rank: peer.rank, phase }),
    'told',
  )
}

export function onAck(step: PrefillStep, peer: Peer, epoch: number): void {
  const transfer = seen(peer, epoch)
  if (!transfer || (transfer.phase !== 'complete' && transfer.phase !== 'failed')) {
    count(step.state.dropped, 'ack')
    return
  }
  transfer.acked = true
  const sender = step.state.rooms.get(transfer.key)?.sender
  if (transfer.phase === 'complete' && sender?.targets.includes(transfer)) onAcked(step, sender)
  forgetIfOver(step, transfer)
}

/** Every message of a peer moves its watermark. */
function seen(peer: Peer, epoch: number): Transfer | undefined {
  peer.watermark = Math.max(peer.watermark, epoch)
  return peer.transfers.get(epoch)
}

/**
 * Ends a transfer, and with it the request that it belongs to. `told`: decode knows already, so only
 * `drained` is owed.
 */
export function failTransfer(
  step: PrefillStep,
  transfer: Transfer,
  error: KvxError,
  told?: 'told',
): void {
  if (transfer.phase === 'failed' || (transfer.phase === 'complete' && transfer.acked)) return
  const wasParked = transfer.phase === 'parked'
  transfer.phase = 'failed'
  const sender = step.state.rooms.get(transfer.key)?.sender
  transfer.deadline = step.now + (sender ?? step.state.self).deadlines.linger
  transfer.acked = told === 'told'
  transfer.outcome = {
    v: protocolVersion,
    k: 'failed',
    from: step.state.self.incarnation,
    to: transfer.peer.incarnation,
    gen: transfer.generation,
    ep: transfer.epoch,
    ...failureFields(error),
  }
  if (told !== 'told' && isReachable(transfer)) {
    step.out.push({ do: 'send', connection: transfer.peer.connection, message: transfer.outcome })
  }
  // The request first: dropping its pieces must not let it look finished.
  if (sender?.targets.includes(transfer)) failSender(step, sender, error)
  else if (wasParked) failSiblings(step, transfer, error)
  dropPieces(step, transfer)
  drain(step, transfer)
}

/** The failure of one decode rank reaches the others before they are paired as well. */
function failSiblings(step: PrefillStep, failed: Transfer, error: KvxError): void {
  const room = step.state.rooms.get(failed.key)
  if (!room) return
  const { sender } = room
  if (
    sender?.phase === 'waiting' &&
    sender.tokens === failed.tokens &&
    sameBytes(sender.digest, failed.digest)
  ) {
    failSender(step, sender, error)
    return
  }
  for (const other of [...room.transfers]) {
    if (other.phase === 'parked' && other.peer.instance === failed.peer.instance)
      failTransfer(step, other, error)
  }
}

/** Says `drained` once nothing of a failed transfer can land any more. */
export function drain(step: PrefillStep, transfer: Transfer): void {
  if (transfer.phase !== 'failed' || transfer.unsettled > 0) return
  if (!transfer.drainedSent) {
    transfer.drainedSent = true
    if (isReachable(transfer)) tell(step, transfer, { k: 'drained' })
  }
  forgetIfOver(step, transfer)
}

export function forgetIfOver(step: PrefillStep, transfer: Transfer): void {
  if (transfer.phase !== 'complete' && transfer.phase !== 'failed') return
  if (!transfer.acked && step.now < transfer.deadline) return
  // What may still land is remembered by its epoch; the room is free.
  if (transfer.unsettled === 0) transfer.peer.transfers.delete(transfer.epoch)
  const room = step.state.rooms.get(transfer.key)
  room?.transfers.delete(transfer)
  if (room?.transfers.size === 0 && !room.sender) step.state.rooms.delete(transfer.key)
}

export function watchTransfers(step: PrefillStep): void {
  for (const peer of step.state.peers.values()) {
    for (const transfer of [...peer.transfers.values()]) {
      if (step.now < transfer.deadline) continue
      if (transfer.phase === 'parked') {
        failTransfer(step, transfer, unpaired(step, transfer))
      } else if (transfer.phase === 'paired') {
        const error = new KvxError(
          'ERR_KVX_TIMEOUT',
          `${peerName(peer)} was asked for the pages of room ${transfer.key}, and gave none within ${String(step.state.self.deadlines.progress)} ms.`,
          { phase: 'paired', peer: peer.instance, rank: rankName(peer.rank) },
        )
        failTransfer(step, transfer, error)
      } else {
        forgetIfOver(step, transfer)
      }
    }
  }
}

/** Why a reserve was parked for too long. */
function unpaired(step: PrefillStep, { key, consumed }: Transfer): KvxError {
  const { self, rooms } = step.state
  const ms = String(self.deadlines.pairing)
  const [code, text] = rooms.get(key)?.sender
    ? (['ERR_KVX_TIMEOUT', `waited ${ms} ms for the reserves of other decode ranks.`] as const)
    : consumed
      ? (['ERR_KVX_ROOM_CONSUMED', `was sent before, and no other leg came in ${ms} ms.`] as const)
      : (['ERR_KVX_ROOM_UNKNOWN', `waited ${ms} ms for its prefill leg in vain.`] as const)
  const { instance, rank } = self
  return new KvxError(code, `Room ${key} ${text}`, {
    phase: 'parked',
    peer: instance,
    rank: rankName(rank),
  })
}

export function roomOf(step: PrefillStep, key: string): Room {
  let room = step.state.rooms.get(key)
  if (!room) {
    room = { key, sender: undefined, transfers: new Set() }
    step.state.rooms.set(key, room)
  }
  return room
}
