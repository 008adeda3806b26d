/** A decode rank: as what its hello made it known, over which connection it speaks, and the link to its engine. */
import { KvxError, type ErrorCode } from '@kvx/contract'
import { digest16, type Layout } from '../../layout/index.ts'
import { checkFit, Planner } from '../../plan/index.ts'
import { count, sameBytes } from '../keys.ts'
import { checkPeerLayout } from '../fit.ts'
import { rankName, sameRank } from '../rank.ts'
import { sends, topologyObjection } from '../topology.ts'
import { clip, protocolVersion, type Message, type MessageOf } from '../messages.ts'
import { refuse } from './send.ts'
import type { Peer, PrefillStep } from './state.ts'

/** Why a hello is refused, or undefined. */
export function helloObjection(
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

/** Of an incarnation that was not known, or was forgotten. */
export function addPeer(step: PrefillStep, connection: string, hello: MessageOf<'hello'>): Peer {
  const { state } = step
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
    heard: step.now,
    transfers: new Map(),
    inFlight: 0,
    queue: [],
  }
  state.peers.set(peer.incarnation, peer)
  state.connections.set(connection, peer.incarnation)
  return peer
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
