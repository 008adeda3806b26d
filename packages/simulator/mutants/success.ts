/** Success that is none, and bytes that go elsewhere. */
import { inFile, type Mutant } from './mutant.ts'

const request = 'protocol/decode/request.ts'
const lanes = 'plan/lanes.ts'

export const success: readonly Mutant[] = [
  {
    name: 'complete-before-last',
    invariant: 2,
    says: 'Prefill says complete before its last component has landed.',
    edits: inFile('protocol/prefill/complete.ts', [
      `if (sender.unsettled > 0 || sender.targets.some((t) => !t.pages)) return`,
      `if (sender.targets.some((t) => !t.pages)) return`,
    ]),
  },
  {
    name: 'manifest-ignored',
    invariant: 2,
    says: 'Decode does not compare the manifest of complete with what it has asked for.',
    edits: inFile('protocol/decode/manifest.ts', [
      `if (part.pages !== pages || part.bytes !== bytes) {`,
      `if (part.pages < 0) {`,
    ]),
  },
  {
    name: 'one-rank-is-enough',
    invariant: 2,
    says: 'Decode succeeds with the first prefill rank that is complete.',
    edits: inFile(request, [
      `if (request.legs.every(({ phase }) => phase === 'complete')) succeed`,
      `if (request.legs.some(({ phase }) => phase === 'complete')) succeed`,
    ]),
  },
  {
    name: 'mismatch-ignored',
    invariant: 2,
    says: 'Decode succeeds although checksums differ.',
    edits: inFile(request, [
      `if (event.error) failRequest(step, request, event.error)\n  else completeLeg(`,
      `completeLeg(`,
    ]),
  },
  {
    name: 'pairs-without-all-ranks',
    invariant: 2,
    says: 'A room pairs as soon as one of its decode ranks has reserved.',
    edits: inFile('protocol/topology.ts', [
      `if (sends(prefill, rank, heads)) ranks.push(rank)`,
      `if (tp === decode.tp && pp === decode.pp) ranks.push(rank)`,
    ]),
  },
  {
    name: 'first-rank-only',
    invariant: 2,
    says: 'Decode asks only the first prefill rank that holds bytes for it, and does not see that others are missing.',
    edits: [
      ...inFile('protocol/topology.ts', [`  return found\n}`, `  return found.slice(0, 1)\n}`]),
      ...inFile(request, [
        `if (!route || route.covered) return undefined`,
        `if (!route || legs.length > 0) return undefined`,
      ]),
    ],
  },
  {
    name: 'page-too-few',
    invariant: 8,
    says: 'A plan leaves out the last page of a run.',
    edits: inFile('plan/plan.ts', [
      `const rows = groups.subarray(start, groupEnd)`,
      `const rows = groups.subarray(start, groupEnd)\n      if ((rows[rows.length - 1] ?? 0) > 1) rows[rows.length - 1] = (rows[rows.length - 1] ?? 0) - 1`,
    ]),
  },
  {
    name: 'wrong-page',
    invariant: 8,
    says: 'A plan joins pages that are consecutive at prefill although they are not at decode.',
    edits: inFile('plan/group.ts', [
      `if (i > 0 && from === nextSource && to === nextDestination) {`,
      `if (i > 0 && from === nextSource) {`,
    ]),
  },
  {
    name: 'wrong-page-after-prefix',
    invariant: 8,
    says: 'Prefill counts destination pages from the beginning of the prompt although they begin after the prefix.',
    edits: inFile(
      'protocol/prefill/piece.ts',
      [
        `function destinationOf({ pages, state }`,
        `function destinationOf({ pages, state, prefixPages }`,
      ],
      [
        `const { component, sourcePages, first } = part\n`,
        `const { component, sourcePages } = part\n  const first = Math.max(0, Math.min(part.first + prefixPages, (pages?.length ?? 0) - sourcePages.length))\n`,
      ],
    ),
  },
  {
    name: 'wrong-source-after-prefix',
    invariant: 8,
    says: 'A write that begins within the prefix sends its first pages instead of those after the prefix.',
    edits: inFile('protocol/prefill/write.ts', [
      `event.pages.subarray(from - event.start)`,
      `event.pages.subarray(0, event.start + event.pages.length - from)`,
    ]),
  },
  {
    name: 'layer-too-many',
    invariant: 8,
    says: 'A write of a range of layers moves the layer after it as well.',
    edits: inFile('plan/plan.ts', [
      `(this.lanes.layers[end - 1] ?? 0) >= high`,
      `(this.lanes.layers[end - 1] ?? 0) > high`,
    ]),
  },
  {
    name: 'head-range-too-small',
    invariant: 8,
    says: 'A head slice is one head wide, however many heads the ranks share.',
    edits: inFile(lanes, [
      `const shared = (high - low) * source.headBytes`,
      `const shared = source.headBytes`,
    ]),
  },
  {
    name: 'head-offset-of-source',
    invariant: 8,
    says: 'Heads are looked for at prefill by their number in the model, not in the rank.',
    edits: inFile(lanes, [
      `source.base + (low - source.heads[0]) * headStride`,
      `source.base + low * headStride`,
    ]),
  },
  {
    name: 'head-offset-of-destination',
    invariant: 8,
    says: 'A head slice lands at the beginning of its page at decode.',
    edits: inFile(lanes, [
      `destination.base + (low - destination.heads[0]) * headStride`,
      `destination.base`,
    ]),
  },
  {
    name: 'stride-of-source',
    invariant: 8,
    says: 'Tokens at decode are taken to be as far apart as at prefill.',
    edits: inFile(lanes, [`whole ? 0 : destinationStride`, `whole ? 0 : sourceStride`]),
  },
]
