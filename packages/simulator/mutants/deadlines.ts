/** Waits without an end. Where two deadlines end the same wait, a mutant has lost both. */
import { inFile, type Mutant } from './mutant.ts'

const transfers = 'protocol/prefill/transfers.ts'

const peers = 'protocol/prefill/peers.ts'
const senders = 'protocol/prefill/senders.ts'
const requests = 'protocol/decode/requests.ts'

export const deadlines: readonly Mutant[] = [
  {
    name: 'no-hello-deadline',
    invariant: 5,
    says: 'A request waits for ever for bootstrap, connection and welcome, also of a peer that is known to be lost.',
    edits: [
      ...inFile(requests, [`deadline: step.now + event.deadlines.hello,`, `deadline: Infinity,`]),
      ...inFile('protocol/decode/sources.ts', [
        `if (request.phase !== 'resolving') return\n  const { probe }`,
        `if (request.phase === 'resolving') return\n  const { probe }`,
      ]),
    ],
  },
  {
    name: 'no-pairing-deadline',
    invariant: 5,
    says: 'Neither decode nor prefill bounds how long a reserve waits for its prefill leg.',
    edits: [
      ...inFile(requests, [
        `request.deadline = step.now + request.deadlines.pairing`,
        `request.deadline = Infinity`,
      ]),
      ...inFile(transfers, [
        `deadline: now + state.self.deadlines.pairing,`,
        `deadline: Infinity,`,
      ]),
    ],
  },
  {
    name: 'no-deadline-for-writes',
    invariant: 5,
    says: 'Neither prefill nor decode bounds how long a write may take.',
    edits: [
      ...inFile(
        'protocol/prefill/pieces.ts',
        [`deadlineMs: piece.sender.deadlines.transfer,`, `deadlineMs: Infinity,`],
        [
          `piece.deadline = step.now + piece.sender.deadlines.transfer`,
          `piece.deadline = Infinity`,
        ],
      ),
      ...inFile(
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
    ],
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
    name: 'no-drain-deadline-at-prefill',
    invariant: 4,
    says: 'Prefill never replaces the engine whose writes do not end.',
    edits: inFile('protocol/prefill/recycle.ts', [
      `failedAt !== undefined && failedAt <= since && !abandoned`,
      `failedAt !== undefined && failedAt < since - Infinity && !abandoned`,
    ]),
  },
]
