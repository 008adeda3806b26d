/** Who sends what: bytes that several ranks send, or none, and ranks that nobody tells. */
import { inFile, type Mutant } from './mutant.ts'

const elect = 'share/elect.ts'
const holdings = 'share/holdings.ts'
const served = 'share/served.ts'
const tokens = 'share/tokens.ts'

export const election: readonly Mutant[] = [
  {
    name: 'replica-elected-twice',
    invariant: 8,
    says: 'Every prefill rank that has a copy of a unit sends it.',
    edits: inFile(elect, [
      `return giver.index === chosenCopy(giver.count, taker, tensor.layer) ? shared : undefined`,
      `return giver.index >= chosenCopy(giver.count, taker, tensor.layer) ? shared : undefined`,
    ]),
  },
  {
    name: 'replica-elected-by-none',
    invariant: 8,
    says: 'The turns of copies begin with the second one, so that the last turn is that of nobody.',
    edits: inFile(elect, [
      `first + (layer % (end - first))`,
      `first + 1 + (layer % (end - first))`,
    ]),
  },
  {
    name: 'replica-of-another-unit',
    invariant: 8,
    says: 'With more ranks than units the units are dealt out in turn, and not to neighbours.',
    edits: inFile(holdings, [
      `const first = Math.floor((tp * units) / tpSize)`,
      `const first = tpSize > units ? tp % units : Math.floor((tp * units) / tpSize)`,
    ]),
  },
  {
    name: 'unit-range-too-long',
    invariant: 8,
    says: 'A rank is taken to hold the first unit of the next one as well.',
    edits: inFile(holdings, [
      `Math.floor(((tp + 1) * units) / tpSize)]`,
      `Math.min(units, Math.floor(((tp + 1) * units) / tpSize) + 1)]`,
    ]),
  },
  {
    name: 'stage-off-by-one',
    invariant: 8,
    says: 'The last layer of a pipeline stage is taken for one of the next.',
    edits: inFile(holdings, [
      `return layer < first || layer >= end ? undefined`,
      `return layer < first || layer >= Math.max(first + 1, end - 1) ? undefined`,
    ]),
  },
  {
    name: 'state-of-one-context-rank',
    invariant: 8,
    says: 'The state of a request counts as divided among context-parallel ranks, each of which sends its own.',
    edits: inFile(elect, [
      `const everywhere = context === 'all' || addressed === 'request'`,
      `const everywhere = context === 'all'`,
    ]),
  },
  {
    name: 'remainder-to-the-last',
    invariant: 8,
    says: 'Pages that do not come out even go to the last context-parallel ranks.',
    edits: inFile(
      tokens,
      [
        `(cp * each + Math.min(cp, extra)) * pageTokens`,
        `(cp * each + Math.max(0, cp - cpSize + extra)) * pageTokens`,
      ],
      [
        `(each + (cp < extra ? 1 : 0)) * pageTokens`,
        `(each + (cp >= cpSize - extra ? 1 : 0)) * pageTokens`,
      ],
    ),
  },
  {
    name: 'published-rank-ignored',
    invariant: 9,
    says: 'Decode goes by the room, although prefill has published which data-parallel rank computes it.',
    among: { mode: 'liveness' },
    edits: inFile('share/data-parallel.ts', [
      `if (dpRank === undefined) return dpRankOf(room, dpSize)`,
      `if (typeof dpRank !== 'number') return dpRankOf(room, dpSize)`,
    ]),
  },
  {
    name: 'never-published-waits-for-ever',
    invariant: 5,
    says: 'What waits for prefill to publish who computes it has no deadline.',
    edits: inFile('protocol/decode/route.ts', [
      `request.deadline = Math.min(step.now + deadlines.pairing, since + deadlines.queue)`,
      `request.deadline = deadlines.pairing + since > 0 ? Infinity : 0`,
    ]),
  },
  {
    name: 'visitor-never-told',
    invariant: 9,
    says: 'Decode does not visit a prefill rank that has nothing to send, which waits for it.',
    edits: inFile(served, [
      `return visitorOf(prefill, all).some((rank) => sameRank(rank, decode))`,
      `return false`,
    ]),
  },
]
