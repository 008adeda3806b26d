/** More than one end, or another cause than the first. */
import { inFile, type Mutant } from './mutant.ts'

const sender = 'protocol/prefill/sender.ts'
const leg = 'protocol/decode/leg.ts'

export const final: readonly Mutant[] = [
  {
    name: 'complete-told-twice',
    invariant: 3,
    says: 'Decode keeps a completed epoch as live, and tells its host again when complete is repeated.',
    edits: inFile(leg, [
      `  leg.drained = true\n  leg.link.legs.delete(leg.epoch)\n  ask(`,
      `  leg.drained = true\n  ask(`,
    ]),
  },
  {
    name: 'complete-after-failure',
    invariant: 3,
    says: 'Decode takes complete for the end of a request that has failed.',
    edits: inFile(leg, [
      `if (leg.phase === 'verifying' || leg.phase === 'failed' || request.error) return`,
      `if (leg.phase === 'verifying') return`,
    ]),
  },
  {
    name: 'cause-overwritten-at-decode',
    invariant: 3,
    says: 'A failed request at decode fails again with a later cause.',
    edits: inFile('protocol/decode/request.ts', [
      `if (request.phase === 'success' || request.phase === 'failed') return`,
      `if (request.phase === 'success') return`,
    ]),
  },
  {
    name: 'cause-overwritten-at-prefill',
    invariant: 3,
    says: 'A failed request at prefill fails again with a later cause.',
    edits: inFile(sender, [
      `if (sender.phase === 'success' || sender.phase === 'failed') return`,
      `if (sender.phase === 'success' || sender.settledTold) return`,
    ]),
  },
  {
    name: 'finished-with-first-ack',
    invariant: 3,
    says: 'Prefill has finished when the first of its decode ranks has acknowledged.',
    edits: inFile(sender, [
      `!sender.targets.every((t) => t.phase === 'complete' && t.acked)`,
      `!sender.targets.some((t) => t.phase === 'complete' && t.acked)`,
    ]),
  },
  {
    name: 'failure-stays-with-rank',
    invariant: 3,
    says: 'When the transfer to one decode rank fails, prefill does not end those to the others.',
    edits: inFile(sender, [
      `for (const target of sender.targets) failTransfer(step, target, error)`,
      `for (const target of sender.targets.slice(0, 1)) failTransfer(step, target, error)`,
    ]),
  },
  {
    name: 'legs-not-aborted',
    invariant: 3,
    says: 'Decode aborts only the first prefill rank of a request that has failed.',
    edits: inFile(leg, [
      `if (leg.drained || leg.phase === 'failed') return`,
      `if (leg.drained || leg.phase === 'failed' || leg !== leg.request.legs[0]) return`,
    ]),
  },
]
