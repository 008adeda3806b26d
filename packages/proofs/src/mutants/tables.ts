/** What is kept for ever, or without a bound. */
import { inFile, type Mutant } from './mutant.ts'

export const tables: readonly Mutant[] = [
  {
    name: 'ended-rooms-kept',
    invariant: 4,
    says: 'Prefill never forgets how a room ended.',
    edits: inFile('protocol/prefill/sender.ts', [
      `for (const [key, { until }] of step.state.ended) if (step.now >= until) forget(step, key)`,
      ``,
    ]),
  },
  {
    name: 'outcomes-kept',
    invariant: 4,
    says: 'Prefill keeps an outcome that is not acknowledged for longer than the linger.',
    edits: inFile('protocol/prefill/transfer.ts', [
      `if (!transfer.acked && step.now < transfer.deadline) return`,
      `if (!transfer.acked) return`,
    ]),
  },
  {
    name: 'rooms-kept-at-decode',
    invariant: 4,
    says: 'Decode keeps the room of a request that has failed.',
    edits: inFile('protocol/decode/request.ts', [
      `  request.deadline = Infinity\n  leave(step, request)\n`,
      `  request.deadline = Infinity\n  step.state.sources.get(request.from)?.requests.delete(request)\n`,
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
    edits: inFile('protocol/prefill/loss.ts', [`step.state.peers.delete(peer.incarnation)`, ``]),
  },
  {
    name: 'lost-links-kept',
    invariant: 4,
    says: 'Decode never forgets a prefill that is lost and not registered any more.',
    edits: inFile('protocol/decode/loss.ts', [
      `if (link.status === 'lost') forgetIfIdle(step, link)`,
      ``,
    ]),
  },
  {
    name: 'sources-kept',
    invariant: 4,
    says: 'Decode watches for ever what it has used once.',
    edits: inFile('protocol/decode/source.ts', [
      `if (source.requests.size > 0 || step.now - source.used < self.deadlines.linger) return`,
      `if (source.requests.size >= 0 || step.now - source.used < self.deadlines.linger) return`,
    ]),
  },
  {
    name: 'credit-without-limit',
    invariant: 4,
    says: 'Prefill posts one write more than the bytes in flight allow.',
    edits: inFile('protocol/prefill/piece.ts', [
      `peer.inFlight + bytes > self.limits.bytesInFlightPerPeer) return false`,
      `peer.inFlight > self.limits.bytesInFlightPerPeer) return false`,
    ]),
  },
]
