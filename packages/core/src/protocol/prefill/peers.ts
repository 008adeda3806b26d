/** Who is connected: hello, welcome, signs of life, loss. */
import { KvxError, type ErrorCode } from '@kvx/contract'
import { digest16, type Layout } from '../../layout/index.ts'
import { checkFit, Planner } from '../../plan/index.ts'
import { welcomeOf } from '../greeting.ts'
import { count, sameBytes, type PeerGone } from '../keys.ts'
import { checkPeerLayout } from '../fit.ts'
import { rankName, sameRank } from '../rank.ts'
import { sends, topologyObjection } from '../topology.ts'
import { clip, protocolVersion, type Message, type MessageOf } from '../messages.ts'
import { onTargetRenewed, pump } from './pieces.ts'
import { peerName, refuse, sendTo } from './send.ts'
import { failQueued } from './senders.ts'
import type { Peer, PrefillEvent, PrefillStep } from './state.ts'
import { failTransfer, pair, repeatOutcome } from './transfers.ts'

export function onHello(step: PrefillStep, connection: string, hello: MessageOf<'hello'>): void {
  const { state, now } = step
  const known = state.peers.get(hello.from)
  const error = objection(step, connection, hello, known)
  if (error) {
    refuse(step, { connection, incarnation: hello.from }, hello.gen, undefined, error)
    return
  }
  if (known) {
    state.connections.delete(known.connection)
    state.connections.set(connection, hello.from)
    known.connection = connection
    known.heard = now
    known.watermark = Math.max(known.watermark, hello.epoch)
    const isRevoked = hello.fences > known.fences
    known.fences = Math.max(known.fences, hello.fences)
    if (known.generation === hello.gen && known.link !== 'lost' && !isRevoked) {
      if (known.link === 'open') welcome(step, known)
      return
    }
    const { generation } = known
    known.address = hello.engine.address
    known.regions = hello.engine.regions
    if (generation !== hello.gen) {
      known.generation = hello.gen
      failPeer(step, known, 'ERR_KVX_TRANSFER_FAILED', 'replaced its transfer engine')
      onTargetRenewed(step, known)
    } else if (isRevoked) {
      failPeer(step, known, 'ERR_KVX_TRANSFER_FAILED', "revoked this engine's access")
    }
    if (known.link !== 'lost')
      step.out.push({ do: 'closeLink', peer: known.incarnation, generation })
    openLink(step, known)
    return
  }
  for (const other of state.peers.values()) {
    if (other.instance === hello.instance && sameRank(other.rank, hello.rank)) {
      losePeer(step, other, 'was replaced by a new process')
    }
  }
  const planner = new Planner(state.self.layout, hello.layout)
  const peer: Peer = {
    incarnation: hello.from,
    session: hello.session,
    instance: hello.instance,
    rank: hello.rank,
    layout: hello.layout,
    layoutDigest: digestOf(hello.layout),
    planner,
    kvLayers: sharedLayers(planner, 'kv'),
    generation: hello.gen,
    address: hello.engine.address,
    regions: hello.engine.regions,
    connection,
    fences: hello.fences,
    link: 'opening',
    connecting: undefined,
    // A forgotten peer may be back: what it reserved then is over.
    watermark: hello.epoch,
    heard: now,
    transfers: new Map(),
    inFlight: 0,
    queue: [],
  }
  state.peers.set(peer.incarnation, peer)
  state.connections.set(connection, peer.incarnation)
  openLink(step, peer)
}

function objection(
  step: PrefillStep,
  connection: string,
  hello: MessageOf<'hello'>,
  known: Peer | undefined,
): KvxError | undefined {
  const { self, connections, peers } = step.state
  const say = (code: ErrorCode, text: string) =>
    new KvxError(code, clip(text), {
      phase: 'hello',
      peer: self.instance,
      rank: rankName(self.rank),
    })
  const spokenFor = connections.get(connection)
  if (spokenFor !== undefined && spokenFor !== hello.from) {
    return say('ERR_KVX_SENDER_MISMATCH', 'This connection already speaks for another incarnation.')
  }
  if (known && known.session !== hello.session) {
    return say('ERR_KVX_SESSION_MISMATCH', 'This incarnation is known with another session.')
  }
  if (hello.to !== self.incarnation) {
    return say(
      'ERR_KVX_STALE',
      'This hello is meant for an earlier process at this address; ask the bootstrap again.',
    )
  }
  if (hello.engine.backend !== self.backend) {
    return say(
      'ERR_KVX_BACKEND_MISMATCH',
      `Prefill uses the transfer backend '${self.backend}', decode '${hello.engine.backend}'. Start both with the same --transfer-backend.`,
    )
  }
  try {
    checkFit(self.layout, hello.layout)
    checkPeerLayout(hello.layout, hello.engine.regions.length)
  } catch (error) {
    return say((error as KvxError).code, (error as Error).message)
  }
  if (!sameBytes(hello.fingerprint, self.fingerprint)) {
    return say('ERR_KVX_LAYOUT_MISMATCH', 'Prefill and decode describe the cache differently.')
  }
  const wrong = topologyObjection(self.rank, hello.rank, self.layout.heads)
  if (wrong !== undefined) {
    return say('ERR_KVX_LAYOUT_MISMATCH', `Prefill and decode do not fit: ${wrong}.`)
  }
  if (!sends(self.rank, hello.rank, self.layout.heads)) {
    return say(
      'ERR_KVX_LAYOUT_MISMATCH',
      `Prefill rank ${rankName(self.rank)} holds nothing for decode rank ${rankName(hello.rank)}.`,
    )
  }
  if (known && !isUnchanged(known, hello)) {
    return say(
      'ERR_KVX_LAYOUT_MISMATCH',
      'This incarnation is known with another name, rank or layout.',
    )
  }
  if (!known && peers.size >= self.limits.peers) {
    return say(
      'ERR_KVX_OVER_LIMIT',
      `Prefill already serves ${String(self.limits.peers)} decode ranks.`,
    )
  }
  return undefined
}

/** An incarnation keeps what its planner was made from. */
function isUnchanged(known: Peer, hello: MessageOf<'hello'>): boolean {
  return (
    known.instance === hello.instance &&
    sameRank(known.rank, hello.rank) &&
    sameBytes(known.layoutDigest, digestOf(hello.layout))
  )
}

function digestOf(layout: Layout): Uint8Array {
  return digest16(JSON.stringify(layout))
}

/** Layers of which the two ranks share bytes of a component, ascending. */
function sharedLayers({ lanes }: Planner, component: string): number[] {
  const [first, end] = lanes.components.get(component) ?? [0, 0]
  return [...new Set(lanes.layers.subarray(first, end))]
}

/**
 * One attempt at a time: the next follows when it has ended. While the engine is replaced there is none
 * to connect: `onRecycled` does it then.
 */
export function openLink(step: PrefillStep, peer: Peer): void {
  peer.link = 'opening'
  if (step.state.recycle?.phase === 'closing' || peer.connecting !== undefined) return
  peer.connecting = peer.generation
  step.out.push({
    do: 'openLink',
    peer: peer.incarnation,
    generation: peer.generation,
    address: peer.address,
    regions: peer.regions,
    planner: peer.planner,
    timeoutMs: step.state.self.deadlines.hello,
  })
}

export function onLinkOpen(step: PrefillStep, event: PrefillEvent & { type: 'link.open' }): void {
  const peer = step.state.peers.get(event.peer)
  const isAwaited = peer?.connecting === event.generation
  if (isAwaited) peer.connecting = undefined
  if (peer?.generation !== event.generation || peer.link !== 'opening') {
    step.out.push({ do: 'closeLink', peer: event.peer, generation: event.generation })
    if (isAwaited && peer.link === 'opening') openLink(step, peer)
    return
  }
  peer.link = 'open'
  welcome(step, peer)
  pump(step, peer)
  for (const room of [...step.state.rooms.values()]) pair(step, room)
}

export function onLinkFailed(
  step: PrefillStep,
  event: PrefillEvent & { type: 'link.failed' },
): void {
  const peer = step.state.peers.get(event.peer)
  const isAwaited = peer?.connecting === event.generation
  if (isAwaited) peer.connecting = undefined
  if (peer?.generation !== event.generation || peer.link !== 'opening') {
    if (isAwaited && peer.link === 'opening') openLink(step, peer)
    return
  }
  // The engine that tried is closing; the next one tries again.
  if (step.state.recycle?.phase === 'closing') return
  refuse(step, peer, peer.generation, undefined, event.error)
  peer.link = 'lost'
  failPeer(step, peer, 'ERR_KVX_CONNECT_FAILED', 'could not be connected')
  forgetPeerIfOver(step, peer)
}

function welcome(step: PrefillStep, peer: Peer): void {
  const { self, generation } = step.state
  const about = { to: peer.incarnation, gen: peer.generation, writer: generation }
  sendTo(step, peer, welcomeOf(self, about))
  // What was said while no connection stood is lost.
  for (const transfer of peer.transfers.values()) repeatOutcome(step, transfer)
}

/** The peer that a connection speaks for, or undefined after having told it to say hello. */
export function speaker(step: PrefillStep, connection: string, message: Message): Peer | undefined {
  const { state } = step
  const { from } = message
  const gen = 'gen' in message ? message.gen : undefined
  const peer = state.peers.get(from)
  const spokenFor = state.connections.get(connection)
  if (spokenFor !== undefined && spokenFor !== from) {
    count(state.dropped, 'another sender')
    const error = new KvxError(
      'ERR_KVX_SENDER_MISMATCH',
      'This connection speaks for another incarnation.',
      { phase: 'transfer' },
    )
    refuse(step, { connection, incarnation: from }, gen ?? '0'.repeat(32), undefined, error)
    return undefined
  }
  if (spokenFor === undefined || !peer || peer.link === 'lost') {
    count(state.dropped, 'no hello')
    const error = new KvxError(
      'ERR_KVX_INVALID_STATE',
      'This side does not know the sender: say hello again.',
      { phase: 'hello' },
    )
    refuse(step, { connection, incarnation: from }, gen ?? '0'.repeat(32), undefined, error)
    return undefined
  }
  if (gen !== undefined && gen !== peer.generation) {
    count(state.dropped, 'generation')
    // Decode never takes it for an answer to one of its epochs, as the generation is not its own.
    const text = 'This generation is not the one of the last hello.'
    const error = new KvxError('ERR_KVX_EPOCH_MISMATCH', text, { phase: 'transfer' })
    refuse(step, peer, gen, 'ep' in message ? message.ep : undefined, error)
    return undefined
  }
  peer.heard = step.now
  return peer
}

export function onPing(step: PrefillStep, peer: Peer): void {
  step.out.push({
    do: 'send',
    connection: peer.connection,
    message: {
      v: protocolVersion,
      k: 'pong',
      from: step.state.self.incarnation,
      to: peer.incarnation,
      live: peer.transfers.size,
    },
  })
}

export function watchPeers(step: PrefillStep): void {
  const { peers, self } = step.state
  for (const peer of peers.values()) {
    if (peer.link !== 'lost' && step.now - peer.heard > self.deadlines.peerSilent) {
      losePeer(step, peer, `has been silent for ${String(self.deadlines.peerSilent)} ms`)
    }
    forgetPeerIfOver(step, peer)
  }
}

/** Its silence need not be waited for. */
export function onPeerGone(step: PrefillStep, { generation, reason }: PeerGone): void {
  for (const peer of [...step.state.peers.values()]) {
    if (peer.generation !== generation || peer.link === 'lost') continue
    losePeer(step, peer, `is gone. ${reason.replace(/\.$/, '')}`)
  }
}

export function losePeer(step: PrefillStep, peer: Peer, why: string): void {
  const wasLost = peer.link === 'lost'
  peer.link = 'lost'
  failPeer(step, peer, 'ERR_KVX_PEER_LOST', why)
  const error = new KvxError('ERR_KVX_PEER_LOST', `${peerName(peer)} ${why}.`, {
    phase: 'reserve',
    peer: peer.instance,
    rank: rankName(peer.rank),
  })
  failQueued(step, peer, error)
  if (!wasLost)
    step.out.push({ do: 'closeLink', peer: peer.incarnation, generation: peer.generation })
  forgetPeerIfOver(step, peer)
}

function failPeer(step: PrefillStep, peer: Peer, code: ErrorCode, why: string): void {
  for (const transfer of [...peer.transfers.values()]) {
    const error = new KvxError(code, `${peerName(peer)} ${why}.`, {
      phase: transfer.phase === 'parked' ? 'parked' : 'transfer',
      peer: peer.instance,
      rank: rankName(peer.rank),
    })
    failTransfer(step, transfer, error, 'told')
  }
}

/** A lost peer is kept until nothing of it can touch memory: its watermark keeps old epochs over. */
function forgetPeerIfOver(step: PrefillStep, peer: Peer): void {
  if (peer.link !== 'lost' || peer.connecting !== undefined) return
  for (const transfer of peer.transfers.values()) if (transfer.unsettled > 0) return
  for (const transfer of peer.transfers.values()) {
    const room = step.state.rooms.get(transfer.key)
    room?.transfers.delete(transfer)
    if (room?.transfers.size === 0 && !room.sender) step.state.rooms.delete(transfer.key)
  }
  peer.transfers.clear()
  step.state.peers.delete(peer.incarnation)
  if (step.state.connections.get(peer.connection) === peer.incarnation)
    step.state.connections.delete(peer.connection)
}
