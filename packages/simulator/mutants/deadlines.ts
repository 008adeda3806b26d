/** Waits without an end. */
import { inFile, type Mutant } from './mutant.ts'

const peers = 'protocol/prefill/peers.ts'
const senders = 'protocol/prefill/senders.ts'
const requests = 'protocol/decode/requests.ts'

export const deadlines: readonly Mutant[] = [
  {
    name: 'no-hello-deadline',
    invariant: 5,
    says: 'A request waits for ever for bootstrap, connection and welcome.',
    edits: inFile(requests, [`deadline: step.now + event.deadlines.hello,`, `deadline: Infinity,`]),
  },
  {
    name: 'no-connect-deadline',
    invariant: 5,
    says: "Prefill's engine may take for ever to connect.",
    edits: inFile(peers, [`timeoutMs: step.state.self.deadlines.hello,`, `timeoutMs: Infinity,`]),
  },
  {
    name: 'no-probe-deadline',
    invariant: 5,
    says: 'A request waits for a peer that is known to be lost as long as for any other.',
    edits: inFile('protocol/decode/sources.ts', [
      `if (request.phase !== 'resolving') return\n  const { probe }`,
      `if (request.phase === 'resolving') return\n  const { probe }`,
    ]),
  },
  {
    name: 'no-reserve-deadline',
    invariant: 5,
    says: 'Decode waits for ever for the answer to a reserve.',
    edits: inFile(requests, [
      `  request.phase = 'reserving'\n  request.deadline = step.now + request.deadlines.reserve`,
      `  request.phase = 'reserving'\n  request.deadline = Infinity`,
    ]),
  },
  {
    name: 'no-deadline-to-send-reserve',
    invariant: 5,
    says: 'Decode waits for ever until a reserve can be sent.',
    edits: inFile(requests, [
      `if (request.phase === 'open') request.deadline = step.now + request.deadlines.reserve`,
      ``,
    ]),
  },
  {
    name: 'no-pairing-deadline-at-decode',
    invariant: 5,
    says: 'Decode waits for ever for the prefill leg.',
    edits: inFile(requests, [
      `request.deadline = step.now + request.deadlines.pairing`,
      `request.deadline = Infinity`,
    ]),
  },
  {
    name: 'no-pairing-deadline-at-prefill',
    invariant: 5,
    says: 'The host of prefill waits for ever for a reserve.',
    edits: inFile(senders, [
      `deadline: step.now + event.deadlines.pairing,`,
      `deadline: Infinity,`,
    ]),
  },
  {
    name: 'no-deadline-for-parked',
    invariant: 4,
    says: 'A reserve stays parked for ever when its prefill leg does not come.',
    edits: inFile('protocol/prefill/transfers.ts', [
      `deadline: now + state.self.deadlines.pairing,`,
      `deadline: Infinity,`,
    ]),
  },
  {
    name: 'no-progress-deadline',
    invariant: 5,
    says: 'Decode waits for ever for the next page.',
    edits: inFile(
      requests,
      [
        `    request.phase = 'receiving'\n    request.deadline = step.now + request.deadlines.progress`,
        `    request.phase = 'receiving'\n    request.deadline = Infinity`,
      ],
      [
        `  leg.request.deadline = step.now + leg.request.deadlines.progress`,
        `  leg.request.deadline = Infinity`,
      ],
    ),
  },
  {
    name: 'no-verify-deadline',
    invariant: 5,
    says: 'Decode waits for ever for the comparison of checksums.',
    edits: inFile(requests, [
      `  leg.phase = 'verifying'\n  request.deadline = step.now + request.deadlines.progress`,
      `  leg.phase = 'verifying'\n  request.deadline = Infinity`,
    ]),
  },
  {
    name: 'no-deadline-for-late-pages',
    invariant: 5,
    says: 'Prefill waits for ever for the pages that it has asked for.',
    edits: inFile(senders, [
      `  target.deadline = step.now + step.state.self.deadlines.progress\n`,
      ``,
    ]),
  },
  {
    name: 'no-transfer-deadline',
    invariant: 5,
    says: 'A write is posted without a deadline.',
    edits: inFile('protocol/prefill/pieces.ts', [
      `deadlineMs: piece.sender.deadlines.transfer,`,
      `deadlineMs: Infinity,`,
    ]),
  },
  {
    name: 'no-linger-deadline',
    invariant: 5,
    says: 'The host of prefill waits for ever for the acknowledgement.',
    edits: inFile(senders, [
      `sender.deadline = step.now + sender.deadlines.linger`,
      `sender.deadline = Infinity`,
    ]),
  },
  {
    name: 'silent-prefill-waited-for',
    invariant: 5,
    says: 'Decode never takes a silent prefill for lost.',
    edits: inFile('protocol/decode/links.ts', [
      `if (step.now - link.heard > self.deadlines.peerSilent) {`,
      `if (step.now < link.heard) {`,
    ]),
  },
  {
    name: 'silent-decode-waited-for',
    invariant: 5,
    says: 'Prefill never takes a silent decode for lost.',
    edits: inFile(peers, [
      `if (peer.link !== 'lost' && step.now - peer.heard > self.deadlines.peerSilent) {`,
      `if (peer.link !== 'lost' && step.now < peer.heard) {`,
    ]),
  },
  {
    name: 'no-drain-deadline-at-decode',
    invariant: 4,
    says: 'Decode waits for drained of a prefill that is there as long as it takes, and never replaces its engine.',
    edits: inFile('protocol/decode/recycle.ts', [
      `return leg.link.status === 'lost' || step.now - leg.failedAt >= step.state.self.deadlines.drain`,
      `return leg.link.status === 'lost' && step.now >= leg.failedAt`,
    ]),
  },
  {
    name: 'no-drain-deadline-at-prefill',
    invariant: 4,
    says: 'Prefill never replaces the engine whose writes do not end.',
    edits: inFile('protocol/prefill/recycle.ts', [
      `failedAt !== undefined && failedAt <= since && !abandoned`,
      `failedAt !== undefined && failedAt < since - Infinity && !abandoned`,
    ]),
  },
  {
    name: 'no-recycle-deadline-at-decode',
    invariant: 4,
    says: 'Decode replaces its engine only when nothing is live, however long that takes.',
    edits: inFile('protocol/decode/recycle.ts', [
      `if (live.length > 0 && now < state.recycle.deadline) return`,
      `if (live.length > 0) return`,
    ]),
  },
  {
    name: 'no-recycle-deadline-at-prefill',
    invariant: 4,
    says: 'Prefill replaces its engine only when nothing runs, however long that takes.',
    edits: inFile('protocol/prefill/recycle.ts', [
      `if (live.length > 0 && now < state.recycle.deadline) return`,
      `if (live.length > 0) return`,
    ]),
  },
]
