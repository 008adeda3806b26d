/** Messages of another life that change something. */
import { inFile, type Mutant } from './mutant.ts'

const prefillStep = 'protocol/prefill/step.ts'
const decodeStep = 'protocol/decode/step.ts'

export const identity: readonly Mutant[] = [
  {
    name: 'another-incarnation',
    invariant: 6,
    says: 'Incarnations are compared nowhere: a process that has restarted behind its address is taken for the one before.',
    edits: [
      ...inFile(
        decodeStep,
        [`if (!link || message.to !== state.self.incarnation) {`, `if (!link) {`],
        [`if (message.from !== link.incarnation) {`, `if (message.from === '') {`],
      ),
      ...inFile(prefillStep, [
        `if (message.to !== step.state.self.incarnation) {`,
        `if (message.to === '') {`,
      ]),
      ...inFile('protocol/prefill/peer.ts', [
        `if (hello.to !== self.incarnation) {`,
        `if (hello.to === '') {`,
      ]),
      ...inFile('protocol/decode/source.ts', [
        `if (link && link.incarnation !== rank.incarnation) replaceLink(step, link)`,
        ``,
      ]),
      ...inFile('protocol/decode/route.ts', [
        `if (known?.incarnation === rank.incarnation) {`,
        `if (known?.endpoint === rank.endpoint) {`,
      ]),
    ],
  },
  {
    name: 'no-watermark',
    invariant: 6,
    says: 'Prefill takes a late reserve of an epoch that is over for a new one.',
    edits: inFile('protocol/prefill/reserve.ts', [
      `const stale = message.ep <= peer.watermark`,
      `const stale = message.ep < 1`,
    ]),
  },
  {
    name: 'another-generation-at-decode',
    invariant: 6,
    says: 'Decode takes news of its earlier engine.',
    edits: inFile(decodeStep, [
      `if ('gen' in message && message.gen !== state.engine.generation) {`,
      `if ('gen' in message && message.gen === '') {`,
    ]),
  },
  {
    name: 'old-link-reused',
    invariant: 6,
    says: 'Prefill writes to a new generation over the link to the old one.',
    edits: inFile('protocol/prefill/hello.ts', [
      `if (known.link !== 'lost') closeLink(step, known, generation)\n    openLink(step, known)`,
      `if (known.link !== 'lost') welcome(step, known)\n    else openLink(step, known)`,
    ]),
  },
  {
    name: 'epochs-used-again',
    invariant: 6,
    says: 'Decode numbers its epochs from 1 again when a connection is made again.',
    edits: inFile('protocol/decode/link.ts', [
      `  link.up = true\n`,
      `  link.up = true\n  step.state.epoch = 0\n`,
    ]),
  },
  {
    name: 'connection-of-another',
    invariant: 6,
    by: 'frames',
    says: 'A connection that has said hello for one decode rank may say it for another.',
    edits: inFile('protocol/prefill/peer.ts', [
      `if (spokenFor !== undefined && spokenFor !== hello.from) {`,
      `if (spokenFor === '') {`,
    ]),
  },
  {
    name: 'speaks-for-anybody',
    invariant: 6,
    by: 'frames',
    says: 'Prefill asks no message but a hello for whom its connection speaks.',
    edits: inFile('protocol/prefill/peer.ts', [
      `if (spokenFor !== undefined && spokenFor !== from) {`,
      `if (spokenFor === '') {`,
    ]),
  },
  {
    name: 'session-not-asked',
    invariant: 6,
    by: 'frames',
    says: 'Whoever names a decode incarnation is taken for it, without its secret.',
    edits: inFile('protocol/prefill/peer.ts', [
      `if (known && known.session !== hello.session) {`,
      `if (known?.session === '') {`,
    ]),
  },
  {
    name: 'heard-from-anybody',
    invariant: 6,
    by: 'frames',
    says: 'Decode takes a message from an address for one of the incarnation that it knows there.',
    edits: inFile(decodeStep, [
      `if (message.from !== link.incarnation) {`,
      `if (message.from === '') {`,
    ]),
  },
]
