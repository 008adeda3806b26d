/** Success that is none. */
import { inFile, type Mutant } from './mutant.ts'

const request = 'protocol/decode/request.ts'

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
      `if (told.units !== units) {`,
      `if (told.units < 0) {`,
    ]),
  },
  {
    name: 'manifest-bytes-ignored',
    invariant: 2,
    says: 'Decode compares the tokens of the manifest with what it has asked for, and not the bytes.',
    edits: inFile('protocol/decode/manifest.ts', [
      `if (told.bytes !== bytes) {`,
      `if (told.bytes < 0) {`,
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
    says: 'Decode succeeds although digests differ.',
    edits: inFile(request, [
      `if (event.error) failRequest(step, request, event.error)\n  else completeLeg(`,
      `completeLeg(`,
    ]),
  },
  {
    name: 'pairs-without-all-ranks',
    invariant: 2,
    says: 'A room pairs as soon as one of its decode ranks has reserved.',
    edits: inFile('share/served.ts', [
      `return served.length > 0 ? served : visitorOf(prefill, all)`,
      `return served.some((rank) => sameRank(rank, decode)) ? [decode] : visitorOf(prefill, all)`,
    ]),
  },
  {
    name: 'first-rank-only',
    invariant: 2,
    says: 'Decode asks only the first prefill rank that holds bytes for it, and does not see that others are missing.',
    edits: inFile('share/served.ts', [`  return found\n}`, `  return found.slice(0, 1)\n}`]),
  },
]
