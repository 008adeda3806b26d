/** Requests that no fault has hit, and that do not end in success. */
import { inFile, type Mutant } from './mutant.ts'

const pieces = 'protocol/prefill/pieces.ts'
const transfers = 'protocol/prefill/transfers.ts'
const peers = 'protocol/prefill/peers.ts'
const requests = 'protocol/decode/requests.ts'
const recycle = 'protocol/decode/recycle.ts'

export const liveness: readonly Mutant[] = [
  {
    name: 'queue-of-decode-unheard',
    invariant: 9,
    says: 'The pairing deadline of prefill runs while decode says that the request is queued there.',
    edits: inFile('protocol/prefill/senders.ts', [
      `    sender.deadline = Math.min(step.now + sender.deadlines.pairing, sender.queueEnd)\n`,
      ``,
    ]),
  },
  {
    name: 'queue-of-prefill-unheard',
    invariant: 9,
    says: 'The progress deadline of decode runs while prefill says that the request is queued there.',
    edits: inFile(requests, [`  if (message.queued) waitOn(step, leg.request)\n`, ``]),
  },
  {
    name: 'credit-kept',
    invariant: 9,
    says: 'A credit never comes back.',
    edits: inFile(pieces, [`piece.transfer.peer.inFlight -= piece.credit`, ``]),
  },
  {
    name: 'credit-of-failure-kept',
    invariant: 9,
    says: 'The credit of a write that failed never comes back.',
    edits: inFile(pieces, [
      `piece.transfer.peer.inFlight -= piece.credit`,
      `if (piece.status === 'done') piece.transfer.peer.inFlight -= piece.credit`,
    ]),
  },
  {
    name: 'credit-wakes-nobody',
    invariant: 9,
    says: 'A credit that comes back is given to nobody who waits.',
    edits: inFile(pieces, [
      `  settle(step, piece)\n  pump(step, piece.transfer.peer)\n`,
      `  settle(step, piece)\n`,
    ]),
  },
  {
    name: 'parked-holds-credit',
    invariant: 9,
    says: 'A reserve takes its credit when it is parked, and gives it back when it is paired or has failed.',
    edits: inFile(
      transfers,
      [
        `  room.transfers.add(transfer)\n`,
        `  room.transfers.add(transfer)\n  peer.inFlight += creditOf(transfer)\n`,
      ],
      [
        `      target.phase = 'paired'\n`,
        `      target.phase = 'paired'\n      target.peer.inFlight -= creditOf(target)\n`,
      ],
      [
        `  const wasParked = transfer.phase === 'parked'\n`,
        `  const wasParked = transfer.phase === 'parked'\n  if (wasParked) transfer.peer.inFlight -= creditOf(transfer)\n`,
      ],
      [
        `/** Every message of a peer moves its watermark. */`,
        `function creditOf({ peer, tokens }: Transfer): number {\n  return tokens * peer.planner.bytesPerPage('kv')\n}\n\n/** Every message of a peer moves its watermark. */`,
      ],
    ),
  },
  {
    name: 'late-pages-hold-up-others',
    invariant: 9,
    says: 'A write whose pages are not known yet holds up those behind it.',
    edits: inFile(pieces, [
      `const next = peer.queue.findIndex((piece) => piece.transfer.pages !== undefined)`,
      `const next = peer.queue[0]?.transfer.pages === undefined ? -1 : 0`,
    ]),
  },
  {
    name: 'room-by-room',
    invariant: 9,
    says: 'A room pairs only when no older reserve of the same peer is parked.',
    edits: inFile(transfers, [
      `if (first.phase !== 'parked' || first.peer.link !== 'open') continue`,
      `if (first.phase !== 'parked' || first.peer.link !== 'open') continue\n    if ([...first.peer.transfers.values()].find((t) => t.phase === 'parked') !== first) continue`,
    ]),
  },
  {
    name: 'no-query',
    invariant: 9,
    says: 'Decode never asks where an epoch is, neither on reconnect nor when news is late.',
    edits: inFile(requests, [`    ask(step, leg.link, leg.epoch, 'query')\n`, ``]),
  },
  {
    name: 'no-abort-again',
    invariant: 9,
    says: 'Decode says abort once, whether it arrives or not.',
    edits: inFile(requests, [
      `  if (leg.phase === 'failed') {\n    sendAbort(`,
      `  if (leg.phase === 'failed') {\n    if (leg.request.error) return\n    sendAbort(`,
    ]),
  },
  {
    name: 'duplicate-reserve-refused',
    invariant: 9,
    says: 'A reserve that arrives twice is refused as stale.',
    edits: inFile(transfers, [`  if (live) {\n    onQuery`, `  if (live?.acked) {\n    onQuery`]),
  },
  {
    name: 'revoked-link-kept',
    invariant: 9,
    says: 'Prefill goes on with the link to an engine that has revoked its access.',
    edits: inFile(peers, [`known.link !== 'lost' && !isRevoked) {`, `known.link !== 'lost') {`]),
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
