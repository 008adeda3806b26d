/** A decode rank: as what its hello made it known, over which connection it speaks, and the link to its engine. */
import { KvxError, type ErrorCode } from '@kvx/contract'
import { prefixBlock, type Pairing } from '../../plan/index.ts'
import { digest16 } from '../../shape/digest.ts'
import { count, sameBytes } from '../keys.ts'
import { pairRanks } from '../fit.ts'
import { equalRanks, rankName, sameRank, servedDecodeRanks, type Rank } from '../../share/index.ts'
import { clip, noGeneration, protocolVersion, type Message, type MessageOf } from '../messages.ts'
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
  const [lowest, highest] = hello.speaks
  if (lowest > protocolVersion || highest < protocolVersion) {
    return say(
      'ERR_KVX_VERSION_MISMATCH',
      `The protocol versions do not fit: prefill speaks ${String(protocolVersion)}, decode speaks ${String(lowest)} to ${String(highest)}. Run the same kvx on both sides.`,
    )
  }
  if (hello.engine.backend !== self.backend) {
    return say(
      'ERR_KVX_BACKEND_MISMATCH',
      `The transfer backends do not fit: prefill has '${self.backend}', decode has '${hello.engine.backend}'. Start both sides with the same one (--transfer-backend).`,
    )
  }
  if (known && !isUnchanged(known, hello)) {
    return say(
      'ERR_KVX_LAYOUT_MISMATCH',
      'This incarnation is known with another name, rank or cache.',
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

/** What this rank sends to a decode rank, and to which ranks of its instance it sends. */
interface Paired {
  readonly pairing: Pairing
  readonly served: readonly Rank[]
}

/** What this rank sends to one that was not known, or why the two do not fit. */
export function pairingWith(
  { state: { self } }: PrefillStep,
  hello: MessageOf<'hello'>,
): Paired | KvxError {
  const about = { phase: 'hello', peer: self.instance, rank: rankName(self.rank) } as const
  try {
    const pairing = pairRanks(self, 'prefill', hello, hello.engine.regions.length)
    const served = servedDecodeRanks(self.shape, self.rank, hello.rank)
    if (served.some((rank) => sameRank(rank, hello.rank))) return { pairing, served }
  } catch (error) {
    const { code, message } = error as KvxError
    return new KvxError(code, clip(message), about)
  }
  return new KvxError(
    'ERR_KVX_LAYOUT_MISMATCH',
    `Prefill rank ${rankName(self.rank)} sends nothing to decode rank ${rankName(hello.rank)}, which takes its part of the cache from other ranks. Run the same kvx on both sides: both compute who sends what.`,
    about,
  )
}

/** Of an incarnation that was not known, or was forgotten. */
export function addPeer(
  step: PrefillStep,
  connection: string,
  hello: MessageOf<'hello'>,
  paired: Paired,
): Peer {
  const { state } = step
  const { components } = hello.place
  const peer: Peer = {
    incarnation: hello.from,
    session: hello.session,
    instance: hello.instance,
    rank: hello.rank,
    cacheDigest: digestOf(hello),
    ...paired,
    prefixBlock: prefixBlock(state.self.shape, hello.rank, hello.place),
    pages: Object.fromEntries(Object.entries(components).map(([name, { pages }]) => [name, pages])),
    generation: hello.gen,
    address: hello.engine.address,
    regions: hello.engine.regions,
    staging: hello.staging,
    connection,
    fences: hello.fences,
    link: 'opening',
    connecting: undefined,
    isAttemptClosed: false,
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

/** An incarnation keeps what its pairing was made from. */
function isUnchanged(known: Peer, hello: MessageOf<'hello'>): boolean {
  return (
    known.instance === hello.instance &&
    equalRanks(known.rank, hello.rank) &&
    sameBytes(known.cacheDigest, digestOf(hello))
  )
}

function digestOf({ shape, place }: MessageOf<'hello'>): Uint8Array {
  return digest16(JSON.stringify([shape, place]))
}

/**
 * One attempt at a time: the next follows when it has ended. While the engine is replaced there is none
 * to connect: `onRecycled` does it then.
 */
export function openLink(step: PrefillStep, peer: Peer): void {
  peer.link = 'opening'
  if (step.state.recycle?.phase === 'closing' || peer.connecting !== undefined) return
  peer.connecting = peer.generation
  peer.isAttemptClosed = false
  step.out.push({
    do: 'openLink',
    peer: peer.incarnation,
    generation: peer.generation,
    address: peer.address,
    regions: peer.staging ? [...peer.regions, peer.staging.region] : peer.regions,
    timeoutMs: step.state.self.deadlines.hello,
  })
}

export function closeLink(step: PrefillStep, peer: Peer, generation: string): void {
  if (peer.connecting === generation) peer.isAttemptClosed = true
  step.out.push({ do: 'closeLink', peer: peer.incarnation, generation })
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
    refuse(step, { connection, incarnation: from }, gen ?? noGeneration, undefined, error)
    return undefined
  }
  if (spokenFor === undefined || !peer || peer.link === 'lost') {
    count(state.dropped, 'no hello')
    const error = new KvxError(
      'ERR_KVX_INVALID_STATE',
      'This side does not know the sender: say hello again.',
      { phase: 'hello' },
    )
    refuse(step, { connection, incarnation: from }, gen ?? noGeneration, undefined, error)
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
