/** Pages that are used again while bytes may still land in them. */
import { inFile, type Mutant } from './mutant.ts'

const piece = 'protocol/prefill/piece.ts'
const transfer = 'protocol/prefill/transfer.ts'
const leg = 'protocol/decode/leg.ts'
const loss = 'protocol/decode/loss.ts'

/** For a defect that calls what lies above: the file does not import it. */
const importSettled = [
  `import { tell } from './send.ts'\n`,
  `import { tell } from './send.ts'\nimport { onPieceSettled } from './settle.ts'\n`,
] as const

export const pages: readonly Mutant[] = [
  {
    name: 'settled-at-failure',
    invariant: 1,
    says: 'Prefill takes a write that the engine reports as failed for settled.',
    edits: inFile(
      'protocol/prefill/sender.ts',
      [
        `  if (named) failSender(step, piece.sender, named)\n`,
        `  if (!named) return\n  failSender(step, piece.sender, named)\n  onPieceSettled(step, piece.id)\n`,
      ],
      [`import { dropQueued, tellSettled }`, `import { dropQueued, onPieceSettled, tellSettled }`],
    ),
  },
  {
    name: 'settled-at-done',
    invariant: 1,
    says: 'Prefill takes a write that is done for settled, so its source pages are used again while it is read.',
    edits: inFile(
      piece,
      [
        `{ k: 'progress', units: landedUnits(transfer) })`,
        `{ k: 'progress', units: landedUnits(transfer) })\n  onPieceSettled(step, piece.id)`,
      ],
      importSettled,
    ),
  },
  {
    name: 'settled-at-cancel',
    invariant: 1,
    says: 'Prefill takes a write that it has cancelled for settled.',
    edits: inFile(
      piece,
      [
        `if (piece.status === 'posted') step.out.push({ do: 'cancel', piece: piece.id })`,
        `if (piece.status !== 'posted') continue\n    step.out.push({ do: 'cancel', piece: piece.id })\n    onPieceSettled(step, piece.id)`,
      ],
      importSettled,
    ),
  },
  {
    name: 'drained-while-writing',
    invariant: 1,
    says: 'Prefill says drained as soon as a transfer has failed, also while its writes run.',
    edits: inFile(transfer, [
      `if (transfer.phase !== 'failed' || transfer.unsettled > 0) return`,
      `if (transfer.phase !== 'failed') return`,
    ]),
  },
  {
    name: 'abort-drains-at-once',
    invariant: 1,
    says: 'Prefill answers the abort of what has failed already with drained, also while its writes run.',
    edits: inFile(transfer, [
      `transfer.acked = true\n    if (transfer.drainedSent) tell`,
      `transfer.acked = true\n    tell`,
    ]),
  },
  {
    name: 'query-drains-failed',
    invariant: 1,
    says: 'Prefill answers the query of a failed epoch with drained, also while its writes run.',
    edits: inFile(transfer, [
      `if (transfer?.drainedSent) tell`,
      `if (transfer?.phase === 'failed') tell`,
    ]),
  },
  {
    name: 'lease-freed-on-abort',
    invariant: 1,
    says: 'Decode frees the pages of a request when it sends its abort.',
    edits: inFile(leg, [
      `  leg.heard = step.now\n  sendAbort(step, leg, error)\n`,
      `  leg.heard = step.now\n  sendAbort(step, leg, error)\n  leg.drained = true\n  leg.link.legs.delete(leg.epoch)\n`,
    ]),
  },
  {
    name: 'lease-freed-on-failed',
    invariant: 1,
    says: 'Decode takes failed for drained.',
    edits: inFile(leg, [
      `  step.news.push({ leg, happened: 'failed', error: toldError(message, leg.link) })\n`,
      `  step.news.push({ leg, happened: 'failed', error: toldError(message, leg.link) })\n  markDrained(step, leg)\n`,
    ]),
  },
  {
    name: 'freed-by-time',
    invariant: 1,
    says: 'Decode frees quarantined pages when drained has not come within the drain deadline.',
    edits: inFile('protocol/decode/request.ts', [
      `    if (leg.drained || leg.link.status !== 'ready') continue`,
      `    if (leg.phase === 'failed' && now - leg.failedAt >= state.self.deadlines.drain)\n      drainLeg(step, leg)\n    if (leg.drained || leg.link.status !== 'ready') continue`,
    ]),
  },
  {
    name: 'freed-with-link',
    invariant: 1,
    says: 'Decode frees the pages of a lost prefill without fencing it.',
    edits: inFile(
      loss,
      [
        `for (const { request } of link.legs.values()) failRequest(step, request, error)`,
        `for (const { request } of link.legs.values()) failRequest(step, request, error)\n  for (const leg of link.legs.values()) drainLeg(step, leg)`,
      ],
      [`import { failRequest }`, `import { drainLeg, failRequest }`],
    ),
  },
  {
    name: 'fence-of-another-writer',
    invariant: 1,
    says: 'Decode takes the fence of one writer for that of every lost one.',
    edits: inFile('protocol/decode/fence.ts', [`if (leg.link.writer !== writer) continue`, ``]),
  },
  {
    name: 'fence-asked-is-resolved',
    invariant: 1,
    says: 'Decode frees the pages of a lost prefill when it asks for the fence.',
    edits: inFile(
      loss,
      [
        `step.out.push({ do: 'fence', writer: link.writer })`,
        `step.out.push({ do: 'fence', writer: link.writer })\n    onFenced(step, link.writer)`,
      ],
      [`import { failRequest }`, `import { onFenced } from './fence.ts'\nimport { failRequest }`],
    ),
  },
  {
    name: 'freed-at-closing',
    invariant: 1,
    says: 'Decode frees quarantined pages when it begins to close its engine, not when it is closed.',
    edits: inFile('protocol/decode/recycle.ts', [
      `step.out.push({ do: 'recycle' })`,
      `step.out.push({ do: 'recycle' })\n  for (const leg of undrainedLegs(step.state)) drainLeg(step, leg)`,
    ]),
  },
  {
    name: 'page-leased-twice',
    invariant: 1,
    says: 'The pool looks for a run of free pages and does not see the gap in it.',
    edits: inFile('pool/pool.ts', [
      `      if (this.#free[page] === 0) {\n        run = 0\n        continue`,
      `      if (this.#free[page] === 0) {\n        continue`,
    ]),
  },
]
