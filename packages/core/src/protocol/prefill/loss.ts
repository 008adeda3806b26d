/** What the loss of a decode rank means: what runs for it fails, and it is forgotten once nothing of it can touch memory. */
import { KvxError, type ErrorCode } from '@kvx/contract'
import type { PeerGone } from '../keys.ts'
import { rankName } from '../../share/index.ts'
import { closeLink } from './peer.ts'
import { peerName } from './send.ts'
import { failSender, failTransfer } from './sender.ts'
import type { Peer, PrefillStep } from './state.ts'
import { leaveRoom } from './transfer.ts'

export function watchPeer(step: PrefillStep, peer: Peer): void {
  const { peerSilent } = step.state.self.deadlines
  if (peer.link !== 'lost' && step.now - peer.heard > peerSilent) {
    losePeer(step, peer, `has been silent for ${String(peerSilent)} ms`)
  }
  forgetPeerIfOver(step, peer)
}

/** Its silence need not be waited for. */
export function onPeerGone(step: PrefillStep, { generation, reason }: PeerGone): void {
  for (const peer of step.state.peers.values()) {
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
  if (!wasLost) closeLink(step, peer, peer.generation)
  forgetPeerIfOver(step, peer)
}

export function failPeer(step: PrefillStep, peer: Peer, code: ErrorCode, why: string): void {
  for (const transfer of peer.transfers.values()) {
    const error = new KvxError(code, `${peerName(peer)} ${why}.`, {
      phase: transfer.phase === 'parked' ? 'parked' : 'transfer',
      peer: peer.instance,
      rank: rankName(peer.rank),
    })
    failTransfer(step, transfer, error, 'told')
  }
}

/** With a decode rank everything is lost that was queued there. */
function failQueued(step: PrefillStep, peer: Peer, error: KvxError): void {
  for (const sender of step.state.senders.values())
    if (sender.phase === 'waiting' && sender.queuedBy === peer) failSender(step, sender, error)
}

/** A lost peer is kept until nothing of it can touch memory: its watermark keeps old epochs over. */
export function forgetPeerIfOver(step: PrefillStep, peer: Peer): void {
  if (peer.link !== 'lost' || peer.connecting !== undefined) return
  for (const transfer of peer.transfers.values()) if (transfer.unsettled > 0) return
  for (const transfer of peer.transfers.values()) leaveRoom(step, transfer)
  peer.transfers.clear()
  step.state.peers.delete(peer.incarnation)
  if (step.state.connections.get(peer.connection) === peer.incarnation)
    step.state.connections.delete(peer.connection)
}
