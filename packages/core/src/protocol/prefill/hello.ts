/** From the hello of a decode rank to the link over which it is written to. */
import { welcomeOf } from '../greeting.ts'
import type { MessageOf } from '../messages.ts'
import { sameRank } from '../../share/index.ts'
import { failPeer, forgetPeerIfOver, losePeer } from './loss.ts'
import { isKvxError } from '@kvx/contract'
import { addPeer, closeLink, helloObjection, openLink, pairingWith } from './peer.ts'
import { repeatLoads } from './load.ts'
import { pump } from './piece.ts'
import { pair } from './room.ts'
import { refuse, sendTo } from './send.ts'
import { onTargetRenewed } from './settle.ts'
import type { Peer, PrefillEvent, PrefillStep } from './state.ts'
import { repeatOutcome } from './transfer.ts'

export function onHello(step: PrefillStep, connection: string, hello: MessageOf<'hello'>): void {
  const { state, now } = step
  const known = state.peers.get(hello.from)
  const error = helloObjection(step, connection, hello, known)
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
    known.staging = hello.staging
    if (generation !== hello.gen) {
      known.generation = hello.gen
      failPeer(step, known, 'ERR_KVX_TRANSFER_FAILED', 'replaced its transfer engine')
      onTargetRenewed(step, known)
    } else if (isRevoked) {
      failPeer(step, known, 'ERR_KVX_TRANSFER_FAILED', "revoked this engine's access")
    }
    if (known.link !== 'lost') closeLink(step, known, generation)
    openLink(step, known)
    return
  }
  const paired = pairingWith(step, hello)
  if (isKvxError(paired)) {
    refuse(step, { connection, incarnation: hello.from }, hello.gen, undefined, paired)
    return
  }
  for (const other of state.peers.values()) {
    if (other.instance === hello.instance && sameRank(other.rank, hello.rank)) {
      losePeer(step, other, 'was replaced by a new process')
    }
  }
  openLink(step, addPeer(step, connection, hello, paired))
}

export function onLinkOpen(step: PrefillStep, event: PrefillEvent & { type: 'link.open' }): void {
  const peer = step.state.peers.get(event.peer)
  const isAwaited = peer?.connecting === event.generation
  if (isAwaited) peer.connecting = undefined
  if (!peer || !isWanted(peer, event)) {
    step.out.push({ do: 'closeLink', peer: event.peer, generation: event.generation })
    if (isAwaited && peer.link === 'opening') openLink(step, peer)
    return
  }
  peer.link = 'open'
  welcome(step, peer)
  pump(step, peer)
  for (const room of step.state.rooms.values()) pair(step, room)
}

/** Whether the link of which an attempt has ended is the one that is waited for. */
function isWanted(peer: Peer, { generation }: { generation: string }): boolean {
  return peer.generation === generation && peer.link === 'opening' && !peer.isAttemptClosed
}

export function onLinkFailed(
  step: PrefillStep,
  event: PrefillEvent & { type: 'link.failed' },
): void {
  const peer = step.state.peers.get(event.peer)
  const isAwaited = peer?.connecting === event.generation
  if (isAwaited) peer.connecting = undefined
  if (!peer || !isWanted(peer, event)) {
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
  for (const transfer of peer.transfers.values()) {
    repeatOutcome(step, transfer)
    repeatLoads(step, transfer)
  }
}
