/** Requests that no fault has hit, and that do not end in success. */
import { inFile, type Mutant } from './mutant.ts'

const pieces = 'protocol/prefill/pieces.ts'
const transfers = 'protocol/prefill/transfers.ts'
const peers = 'protocol/prefill/peers.ts'
const senders = 'protocol/prefill/senders.ts'
const links = 'protocol/decode/links.ts'
const requests = 'protocol/decode/requests.ts'
const recycle = 'protocol/decode/recycle.ts'

export const liveness: readonly Mutant[] = [
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
    name: 'limit-refuses-leg-that-is-here',
    invariant: 9,
    says: 'A reserve whose prefill leg is here is refused because too many others are parked.',
    edits: inFile(transfers, [
      `if (!sender && idle >= self.limits.parkedPerPeer) {`,
      `if (idle >= self.limits.parkedPerPeer) {`,
    ]),
  },
  {
    name: 'running-counts-as-parked',
    invariant: 9,
    says: 'Running transfers count against the limit of parked ones.',
    edits: inFile(transfers, [
      `if (phase === 'parked' || phase === 'failed') idle++`,
      `if (phase !== 'complete') idle++`,
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
    name: 'outcome-not-repeated',
    invariant: 9,
    says: 'Prefill says an outcome once, whether it arrives or not.',
    edits: inFile(
      transfers,
      [
        `if (!transfer.outcome || transfer.acked || !isReachable(transfer)) return`,
        `if (!transfer.outcome || transfer.phase !== 'parked') return`,
      ],
      [`...(transfer?.outcome === undefined ? {} : { outcome: transfer.outcome }),`, ``],
    ),
  },
  {
    name: 'duplicate-reserve-refused',
    invariant: 9,
    says: 'A reserve that arrives twice is refused as stale.',
    edits: inFile(transfers, [`  if (live) {\n    onQuery`, `  if (live?.acked) {\n    onQuery`]),
  },
  {
    name: 'pages-asked-once',
    invariant: 9,
    says: 'Prefill asks for late pages once, whether that arrives or not.',
    edits: inFile(transfers, [
      `if (transfer?.phase === 'paired' && transfer.asked && !transfer.pages)\n    tell(step, transfer, { k: 'ready' })`,
      ``,
    ]),
  },
  {
    name: 'pages-given-once',
    invariant: 9,
    says: 'Decode sends late pages once, whether they arrive or not.',
    edits: inFile(requests, [
      `    // They were given, and got lost with a connection.\n    sendPages(step, leg)\n`,
      ``,
    ]),
  },
  {
    name: 'link-open-pairs-nobody',
    invariant: 9,
    says: 'Rooms that were complete before the link opened are not paired.',
    edits: inFile(peers, [
      `for (const room of [...step.state.rooms.values()]) pair(step, room)`,
      ``,
    ]),
  },
  {
    name: 'room-not-cleared',
    invariant: 9,
    says: 'A new leg of a room does not clear how the last one ended.',
    edits: inFile(senders, [`  state.ended.delete(sender.key)\n`, ``]),
  },
  {
    name: 'room-in-use-by-failure',
    invariant: 9,
    says: 'A room is in use while an earlier failure in it is remembered.',
    edits: inFile(transfers, [
      `      sameRank(other.peer.rank, peer.rank) &&\n      other.phase !== 'failed'\n`,
      `      sameRank(other.peer.rank, peer.rank)\n`,
    ]),
  },
  {
    name: 'lost-prefill-black-listed',
    invariant: 9,
    says: 'A prefill that was lost once is not used again.',
    edits: inFile(links, [
      `    if (known.status === 'lost') {\n`,
      `    if (known.status === 'connecting') {\n`,
    ]),
  },
  {
    name: 'welcome-of-lost-ignored',
    invariant: 1,
    says: 'A lost prefill that is back is not asked for what it owes.',
    edits: inFile(links, [
      `if (link.status !== 'greeting' && link.status !== 'lost') {`,
      `if (link.status !== 'greeting') {`,
    ]),
  },
  {
    name: 'revoked-link-kept',
    invariant: 9,
    says: 'Prefill goes on with the link to an engine that has revoked its access.',
    edits: inFile(peers, [`known.link !== 'lost' && !isRevoked) {`, `known.link !== 'lost') {`]),
  },
  {
    name: 'greeted-while-revoked',
    invariant: 1,
    says: 'Decode greets a lost prefill that is back while its access is being revoked.',
    edits: inFile(links, [
      `if (step.state.recycle?.phase === 'closing' || link.fencing) return`,
      `if (step.state.recycle?.phase === 'closing') return`,
    ]),
  },
  {
    name: 'starved-peer',
    invariant: 9,
    says: 'Prefill keeps its engine although writes that do not end hold all credits of a peer.',
    edits: inFile('protocol/prefill/recycle.ts', [` && !isStarving) return`, `) return`]),
  },
  {
    name: 'recycle-not-called-off',
    invariant: 9,
    says: 'Prefill goes on waiting to replace its engine after what was stuck has settled, and pairs nobody.',
    edits: inFile('protocol/prefill/recycle.ts', [`if (state.recycle) goOn(step)`, ``]),
  },
  {
    name: 'recycle-takes-reserves',
    invariant: 9,
    says: 'Decode reserves while its engine is being replaced.',
    edits: inFile(requests, [`  if (step.state.recycle) return\n`, ``]),
  },
  {
    name: 'recycle-forgets-finishing',
    invariant: 2,
    says: 'Prefill closes its engine without ending requests whose last writes run; what it abandons counts as landed.',
    edits: inFile('protocol/prefill/recycle.ts', [
      `({ phase }) => phase === 'paired' || phase === 'finishing',`,
      `({ phase }) => phase === 'paired',`,
    ]),
  },
  {
    name: 'recycle-forgets-live',
    invariant: 9,
    says: 'Decode closes its engine without ending the transfers that still run.',
    edits: inFile(recycle, [
      `if (live.length > 0 && now < state.recycle.deadline) return\n  for (const leg of live) {`,
      `if (live.length > 0 && now < state.recycle.deadline) return\n  for (const leg of live.slice(1)) {`,
    ]),
  },
  {
    name: 'recycle-sees-no-parked',
    invariant: 9,
    says: 'Decode closes its engine as soon as no transfer is paired, and forgets the parked ones.',
    edits: inFile(recycle, [
      `return undrainedLegs(step).filter((leg) => leg.phase !== 'failed')`,
      `return undrainedLegs(step).filter((leg) => leg.phase === 'paired')`,
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
