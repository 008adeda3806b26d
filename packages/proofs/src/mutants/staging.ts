/** Bays that belong to two, or to nobody, and loads that are told before they are there. */
import { inFile, type Mutant } from './mutant.ts'

const bays = 'protocol/decode/bays.ts'
const leg = 'protocol/decode/leg.ts'
const stage = 'protocol/decode/stage.ts'

export const staging: readonly Mutant[] = [
  {
    name: 'bay-freed-on-abort',
    invariant: 1,
    says: 'Decode gives the bay of a failed request to another one when it aborts it, while prefill may write into it.',
    edits: inFile(leg, [
      `  leg.heard = step.now\n  sendAbort(step, leg, error)\n`,
      `  leg.heard = step.now\n  freeBays(step, leg)\n  sendAbort(step, leg, error)\n`,
    ]),
  },
  {
    name: 'bay-not-given-back',
    invariant: 4,
    says: 'Decode keeps the bay of a failed request after nothing of it can land any more.',
    edits: inFile(leg, [
      `  leg.link.legs.delete(leg.epoch)\n  freeBays(step, leg)\n`,
      `  leg.link.legs.delete(leg.epoch)\n`,
    ]),
  },
  {
    name: 'bay-freed-at-scattering',
    invariant: 1,
    says: 'Decode gives a bay to another load when it begins to scatter from it.',
    edits: inFile(stage, [
      `  load.phase = 'scattering'\n  step.out.push({`,
      `  load.phase = 'scattering'\n  const bay = load.bay\n  freeBay(step, load)\n  load.bay = bay\n  step.out.push({`,
    ]),
  },
  {
    name: 'scattered-before-it-is',
    invariant: 2,
    says: 'Decode says that a load is scattered when it begins to.',
    edits: inFile(stage, [
      `  load.phase = 'scattering'\n  step.out.push({`,
      `  load.phase = 'scattering'\n  sayScattered(step, leg, number)\n  step.out.push({`,
    ]),
  },
  {
    name: 'bay-offset-off-by-one',
    invariant: 8,
    says: 'Decode tells of a bay that begins a byte later.',
    edits: inFile(bays, [
      `offset: bayOffset(bay, staging) })`,
      `offset: bayOffset(bay, staging) + 1 })`,
    ]),
  },
  {
    name: 'complete-before-scattered',
    invariant: 2,
    says: 'Prefill counts a load as landed when it lies in its bay.',
    edits: inFile('protocol/prefill/piece.ts', [
      `if (piece.load && piece.transfer.phase === 'paired') {`,
      `if (piece.load && piece.transfer.phase === 'paired' && step.now < 0) {`,
    ]),
  },
  {
    name: 'staged-without-its-epoch',
    invariant: 6,
    says: 'Decode takes what is staged for the load of that number of any request of the same prefill rank.',
    edits: inFile('protocol/decode/step.ts', [
      `  const leg = link.legs.get(message.ep)\n  if (leg) onLegMessage`,
      `  const { load } = message as { load?: number }\n  const others = message.k === 'staged' ? [...link.legs.values()] : []\n  const leg = others.find(({ loads }) => loads.get(load ?? 0)?.bay) ?? link.legs.get(message.ep)\n  if (leg) onLegMessage`,
    ]),
  },
  {
    name: 'pages-freed-while-scattering',
    invariant: 1,
    says: 'Decode frees the pages of a failed request while a bay is scattered into them.',
    edits: inFile('protocol/decode/request.ts', [
      `!request.legs.every((leg) => leg.drained && !isScattering(leg))`,
      `!request.legs.every((leg) => leg.drained)`,
    ]),
  },
  {
    name: 'source-freed-while-gathering',
    invariant: 1,
    says: 'Prefill takes a load whose request has failed for settled while it is gathered.',
    edits: inFile('protocol/prefill/piece.ts', [
      `if (piece.status !== 'asking' && piece.status !== 'staged') return false\n  const isOver = piece.status === 'asking' ||`,
      `if (piece.status !== 'asking' && piece.status !== 'staged' && piece.status !== 'gathering') return false\n  const isOver = piece.status !== 'staged' ||`,
    ]),
  },
  {
    name: 'source-bay-freed-at-failure',
    invariant: 1,
    says: 'Prefill gathers into a bay from which a failed write may still be sent.',
    edits: inFile(
      'protocol/prefill/sender.ts',
      [
        `  const named = endPiece(step, piece, error)\n`,
        `  const named = endPiece(step, piece, error)\n  returnBay(step, piece)\n`,
      ],
      [
        `import { aboutPiece, cancelPosted, endPiece }`,
        `import { aboutPiece, cancelPosted, endPiece, returnBay }`,
      ],
    ),
  },
  {
    name: 'no-bay-for-ever',
    invariant: 9,
    says: 'Decode does not say that there is no bay when all of them stay taken.',
    edits: inFile(
      'protocol/decode/step.ts',
      [`  watchBays(step)\n`, ``],
      [`import { watchBays } from './bays.ts'\n`, ``],
    ),
  },
]
