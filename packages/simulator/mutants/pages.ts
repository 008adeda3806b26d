/** Pages that are used again while bytes may still land in them. */
import { inFile, type Mutant } from './mutant.ts'

const pieces = 'protocol/prefill/pieces.ts'
const transfers = 'protocol/prefill/transfers.ts'
const requests = 'protocol/decode/requests.ts'
const links = 'protocol/decode/links.ts'

export const pages: readonly Mutant[] = [
  {
    name: 'settled-at-failure',
    invariant: 1,
    says: 'Prefill takes a write that the engine reports as failed for settled.',
    edits: inFile(pieces, [
      `failSender(step, piece.sender, named(piece.transfer.peer, error))`,
      `failSender(step, piece.sender, named(piece.transfer.peer, error))\n  onPieceSettled(step, id)`,
    ]),
  },
  {
    name: 'settled-at-done',
    invariant: 1,
    says: 'Prefill takes a write that is done for settled, so its source pages are used again while it is read.',
    edits: inFile(pieces, [
      `{ k: 'progress', pages: landedPages(transfer) })`,
      `{ k: 'progress', pages: landedPages(transfer) })\n  onPieceSettled(step, id)`,
    ]),
  },
  {
    name: 'settled-at-cancel',
    invariant: 1,
    says: 'Prefill takes a write that it has cancelled for settled.',
    edits: inFile(pieces, [
      `if (piece.status === 'posted') step.out.push({ do: 'cancel', piece: piece.id })`,
      `if (piece.status !== 'posted') continue\n    step.out.push({ do: 'cancel', piece: piece.id })\n    onPieceSettled(step, piece.id)`,
    ]),
  },
  {
    name: 'drained-while-writing',
    invariant: 1,
    says: 'Prefill says drained as soon as a transfer has failed, also while its writes run.',
    edits: inFile(transfers, [
      `if (transfer.phase !== 'failed' || transfer.unsettled > 0) return`,
      `if (transfer.phase !== 'failed') return`,
    ]),
  },
  {
    name: 'abort-drains-at-once',
    invariant: 1,
    says: 'Prefill answers the abort of what has failed already with drained, also while its writes run.',
    edits: inFile(transfers, [
      `transfer.acked = true\n    if (transfer.drainedSent) tell`,
      `transfer.acked = true\n    tell`,
    ]),
  },
  {
    name: 'query-drains-failed',
    invariant: 1,
    says: 'Prefill answers the query of a failed epoch with drained, also while its writes run.',
    edits: inFile(transfers, [
      `if (transfer?.drainedSent) tell`,
      `if (transfer?.phase === 'failed') tell`,
    ]),
  },
  {
    name: 'lease-freed-on-abort',
    invariant: 1,
    says: 'Decode frees the pages of a request when it sends its abort.',
    edits: inFile(requests, [
      `    sendAbort(step, leg, error)\n  }`,
      `    sendAbort(step, leg, error)\n    leg.drained = true\n    leg.link.legs.delete(leg.epoch)\n  }`,
    ]),
  },
  {
    name: 'lease-freed-on-failed',
    invariant: 1,
    says: 'Decode takes failed for drained.',
    edits: inFile(requests, [
      `  failRequest(step, leg.request, toldError(message, leg.link))\n}\n\nexport function onRefused`,
      `  markDrained(step, leg)\n  failRequest(step, leg.request, toldError(message, leg.link))\n}\n\nexport function onRefused`,
    ]),
  },
  {
    name: 'freed-by-time',
    invariant: 1,
    says: 'Decode frees quarantined pages when drained has not come within the drain deadline.',
    edits: inFile(requests, [
      `      if (leg.drained || leg.link.status !== 'ready') continue`,
      `      if (leg.phase === 'failed' && now - leg.failedAt >= state.self.deadlines.drain)\n        markDrained(step, leg)\n      if (leg.drained || leg.link.status !== 'ready') continue`,
    ]),
  },
  {
    name: 'freed-with-link',
    invariant: 1,
    says: 'Decode frees the pages of a lost prefill without fencing it.',
    edits: inFile(links, [
      `for (const request of concerned) failRequest(step, request, error)`,
      `for (const request of concerned) failRequest(step, request, error)\n  for (const leg of [...link.legs.values()]) markDrained(step, leg)`,
    ]),
  },
  {
    name: 'fence-of-another-writer',
    invariant: 1,
    says: 'Decode takes the fence of one writer for that of every lost one.',
    edits: inFile(links, [`if (leg.link.writer !== writer) continue`, ``]),
  },
  {
    name: 'fence-asked-is-resolved',
    invariant: 1,
    says: 'Decode frees the pages of a lost prefill when it asks for the fence.',
    edits: inFile(links, [
      `step.out.push({ do: 'fence', writer: link.writer })`,
      `step.out.push({ do: 'fence', writer: link.writer })\n    onFenced(step, link.writer)`,
    ]),
  },
  {
    name: 'freed-at-closing',
    invariant: 1,
    says: 'Decode frees quarantined pages when it begins to close its engine, not when it is closed.',
    edits: inFile('protocol/decode/recycle.ts', [
      `step.out.push({ do: 'recycle' })`,
      `step.out.push({ do: 'recycle' })\n  for (const leg of undrainedLegs(step)) markDrained(step, leg)`,
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
