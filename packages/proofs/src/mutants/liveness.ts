/** Requests that no fault has hit, and that do not end in success. */
import { inFile, type Mutant } from './mutant.ts'

const piece = 'protocol/prefill/piece.ts'
const leg = 'protocol/decode/leg.ts'
const recycle = 'protocol/decode/recycle.ts'

export const liveness: readonly Mutant[] = [
  {
    name: 'tokens-of-others-wanted',
    invariant: 9,
    says: 'A context-parallel rank is asked for the tokens that others have as well.',
    edits: inFile('protocol/prefill/written.ts', [
      `[position(held, firstNeeded(sender, name)), position(held, sender.tokens)]`,
      `[position(held, firstNeeded(sender, name)), sender.tokens]`,
    ]),
  },
  {
    name: 'queue-of-decode-unheard',
    invariant: 9,
    says: 'The pairing deadline of prefill runs while decode says that the request is queued there.',
    edits: inFile('protocol/prefill/queue.ts', [
      `    sender.deadline = Math.min(step.now + sender.deadlines.pairing, sender.queueEnd)\n`,
      ``,
    ]),
  },
  {
    name: 'queue-of-prefill-unheard',
    invariant: 9,
    says: 'The progress deadline of decode runs while prefill says that the request is queued there.',
    edits: inFile(leg, [`  if (message.queued) step.news.push({ leg, happened: 'queued' })\n`, ``]),
  },
  {
    name: 'credit-kept',
    invariant: 9,
    says: 'A credit never comes back.',
    edits: inFile(piece, [`piece.transfer.peer.inFlight -= piece.credit`, ``]),
  },
  {
    name: 'credit-of-failure-kept',
    invariant: 9,
    says: 'The credit of a write that failed never comes back.',
    edits: inFile(piece, [
      `piece.transfer.peer.inFlight -= piece.credit`,
      `if (piece.status === 'done') piece.transfer.peer.inFlight -= piece.credit`,
    ]),
  },
  {
    name: 'credit-wakes-nobody',
    invariant: 9,
    says: 'A credit that comes back is given to nobody who waits.',
    edits: inFile('protocol/prefill/settle.ts', [
      `    settle(step, piece)\n  }\n  pump(step, piece.transfer.peer)\n`,
      `    settle(step, piece)\n  }\n`,
    ]),
  },
  {
    name: 'parked-holds-credit',
    invariant: 9,
    says: 'A reserve takes its credit when it is parked, and gives it back when it is paired or has failed.',
    edits: [
      ...inFile('protocol/prefill/reserve.ts', [
        `  room.transfers.add(transfer)\n`,
        `  room.transfers.add(transfer)\n  peer.inFlight += 8 * transfer.prompt.tokens\n`,
      ]),
      ...inFile('protocol/prefill/room.ts', [
        `      target.phase = 'paired'\n`,
        `      target.phase = 'paired'\n      target.peer.inFlight -= 8 * target.prompt.tokens\n`,
      ]),
      ...inFile('protocol/prefill/sender.ts', [
        `  const wasParked = transfer.phase === 'parked'\n`,
        `  const wasParked = transfer.phase === 'parked'\n  if (wasParked) transfer.peer.inFlight -= 8 * transfer.prompt.tokens\n`,
      ]),
    ],
  },
  {
    name: 'late-pages-hold-up-others',
    invariant: 9,
    says: 'A write whose pages are not known yet holds up those behind it.',
    edits: inFile(piece, [
      `if (piece.transfer.pages === undefined) continue\n    if (!piece.planned`,
      `if (piece.transfer.pages === undefined) return false\n    if (!piece.planned`,
    ]),
  },
  {
    name: 'room-by-room',
    invariant: 9,
    says: 'A room pairs only when no older reserve of the same peer is parked.',
    edits: inFile('protocol/prefill/room.ts', [
      `if (first.phase !== 'parked' || first.peer.link !== 'open') continue`,
      `if (first.phase !== 'parked' || first.peer.link !== 'open') continue\n    if ([...first.peer.transfers.values()].find((t) => t.phase === 'parked') !== first) continue`,
    ]),
  },
  {
    name: 'no-query',
    invariant: 9,
    says: 'Decode never asks where an epoch is, neither on reconnect nor when news is late.',
    edits: inFile(leg, [`    ask(step, leg.link, leg.epoch, 'query')\n`, ``]),
  },
  {
    name: 'no-abort-again',
    invariant: 9,
    says: 'Decode says abort once, whether it arrives or not.',
    edits: inFile(leg, [
      `  if (leg.phase === 'failed') {\n    sendAbort(`,
      `  if (leg.phase === 'failed') {\n    if (leg.request.error) return\n    sendAbort(`,
    ]),
  },
  {
    name: 'duplicate-reserve-refused',
    invariant: 9,
    says: 'A reserve that arrives twice is refused as stale.',
    edits: inFile('protocol/prefill/reserve.ts', [
      `  if (live) {\n    onQuery`,
      `  if (live?.acked) {\n    onQuery`,
    ]),
  },
  {
    name: 'revoked-link-kept',
    invariant: 9,
    says: 'Prefill goes on with the link to an engine that has revoked its access.',
    among: { fence: 'peer', mode: 'liveness' },
    edits: inFile('protocol/prefill/hello.ts', [
      `known.link !== 'lost' && !isRevoked) {`,
      `known.link !== 'lost') {`,
    ]),
  },
  {
    name: 'recycle-greets-nobody',
    invariant: 9,
    says: 'Decode does not tell its peers of its new engine.',
    edits: inFile(recycle, [
      `if (link.up && link.status !== 'lost') greet(step, link)`,
      `if (link.status === 'lost') greet(step, link)`,
    ]),
  },
  {
    name: 'recycle-connects-nobody',
    invariant: 9,
    says: 'Prefill does not connect its new engine to the peers that it has.',
    edits: inFile('protocol/prefill/recycle.ts', [
      `if (peer.link !== 'lost') openLink(step, peer)`,
      ``,
    ]),
  },
]
