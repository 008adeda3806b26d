/** What is kept for ever, or without a bound. */
import { inFile, type Mutant } from './mutant.ts'

const transfers = 'protocol/prefill/transfers.ts'
const peers = 'protocol/prefill/peers.ts'
const senders = 'protocol/prefill/senders.ts'
const requests = 'protocol/decode/requests.ts'

export const tables: readonly Mutant[] = [
  {
    name: 'ended-rooms-kept',
    invariant: 4,
    says: 'Prefill never forgets how a room ended.',
    edits: inFile(senders, [
      `for (const [key, { until }] of state.ended) if (now >= until) state.ended.delete(key)`,
      ``,
    ]),
  },
  {
    name: 'outcomes-kept',
    invariant: 4,
    says: 'Prefill keeps an outcome that is not acknowledged for longer than the linger.',
    edits: inFile(transfers, [
      `if (!transfer.acked && step.now < transfer.deadline) return`,
      `if (!transfer.acked) return`,
    ]),
  },
  {
    name: 'rooms-kept-at-decode',
    invariant: 4,
    says: 'Decode keeps the room of a request that has failed.',
    edits: inFile(requests, [
      `  request.deadline = Infinity\n  step.state.rooms.delete(request.key)\n`,
      `  request.deadline = Infinity\n`,
    ]),
  },
  {
    name: 'connections-kept',
    invariant: 4,
    says: 'Prefill never forgets for whom a connection spoke.',
    edits: inFile('protocol/prefill/step.ts', [
      `step.state.connections.delete(event.connection)`,
      ``,
    ]),
  },
  {
    name: 'lost-peers-kept',
    invariant: 4,
    says: 'Prefill never forgets a lost peer.',
    edits: inFile(peers, [`step.state.peers.delete(peer.incarnation)`, ``]),
  },
  {
    name: 'lost-links-kept',
    invariant: 4,
    says: 'Decode never forgets a prefill that is lost and not registered any more.',
    edits: inFile('protocol/decode/links.ts', [
      `if (link.status === 'lost') forgetIfIdle(step, link)`,
      ``,
    ]),
  },
  {
    name: 'sources-kept',
    invariant: 4,
    says: 'Decode watches for ever what it has used once.',
    edits: inFile('protocol/decode/sources.ts', [
      `if (source.requests.size > 0 || step.now - source.used < self.deadlines.linger) continue`,
      `if (source.requests.size >= 0 || step.now - source.used < self.deadlines.linger) continue`,
    ]),
  },
  {
    name: 'credit-without-limit',
    invariant: 4,
    says: 'Prefill posts one write more than the bytes in flight allow.',
    edits: inFile('protocol/prefill/pieces.ts', [
      `if (peer.inFlight > 0 && peer.inFlight + piece.bytes > limit) return`,
      `if (peer.inFlight > 0 && peer.inFlight > limit) return`,
    ]),
  },
]
