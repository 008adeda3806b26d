/** Waits without an end. Where two deadlines end the same wait, a mutant has lost both. */
import { inFile, type Mutant } from './mutant.ts'

const request = 'protocol/decode/request.ts'

export const deadlines: readonly Mutant[] = [
  {
    name: 'no-hello-deadline',
    invariant: 5,
    says: 'A request waits for ever for bootstrap, connection and welcome, also of a peer that is known to be lost.',
    edits: inFile(
      request,
      [`deadline: step.now + event.deadlines.hello,`, `deadline: Infinity,`],
      [
        `if (phase !== 'resolving' && phase !== 'routing') return`,
        `if (phase !== 'routing') return`,
      ],
    ),
  },
  {
    name: 'no-pairing-deadline',
    invariant: 5,
    says: 'Neither decode nor prefill bounds how long a reserve waits for its prefill leg.',
    edits: [
      ...inFile(request, [
        `request.deadline = step.now + deadlines.pairing`,
        `request.deadline = Infinity`,
      ]),
      ...inFile('protocol/prefill/reserve.ts', [
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
        'protocol/prefill/piece.ts',
        [`deadlineMs: sender.deadlines.transfer,`, `deadlineMs: Infinity,`],
        [
          `piece.deadline = step.now + piece.sender.deadlines.transfer`,
          `piece.deadline = Infinity`,
        ],
      ),
      ...inFile(
        request,
        [
          `    request.phase = 'receiving'\n    request.deadline = step.now + deadlines.progress`,
          `    request.phase = 'receiving'\n    request.deadline = Infinity`,
        ],
        [
          `  leg.landed = units\n  request.deadline = step.now + request.deadlines.progress`,
          `  leg.landed = units\n  request.deadline = Infinity`,
        ],
      ),
    ],
  },
  {
    name: 'no-pairing-deadline-at-prefill',
    invariant: 5,
    says: 'The host of prefill waits for ever for a reserve.',
    edits: inFile('protocol/prefill/sender.ts', [
      `deadline: step.now + event.deadlines.pairing,`,
      `deadline: Infinity,`,
    ]),
  },
  {
    name: 'no-linger-deadline',
    invariant: 5,
    says: 'The host of prefill waits for ever for the acknowledgement.',
    edits: inFile('protocol/prefill/complete.ts', [
      `sender.deadline = step.now + sender.deadlines.linger`,
      `sender.deadline = Infinity`,
    ]),
  },
  {
    name: 'silent-prefill-waited-for',
    invariant: 5,
    says: 'Decode never takes a silent prefill for lost.',
    edits: inFile('protocol/decode/loss.ts', [
      `step.now - link.heard > deadlines.peerSilent`,
      `step.now < link.heard`,
    ]),
  },
  {
    name: 'silent-decode-waited-for',
    invariant: 5,
    says: 'Prefill never takes a silent decode for lost.',
    edits: inFile('protocol/prefill/loss.ts', [
      `step.now - peer.heard > peerSilent`,
      `step.now < peer.heard`,
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
