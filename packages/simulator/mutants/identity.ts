/** Messages of another life that change something. */
import { inFile, type Mutant } from './mutant.ts'

const prefillStep = 'protocol/prefill/step.ts'
const decodeStep = 'protocol/decode/step.ts'
const peers = 'protocol/prefill/peers.ts'
const transfers = 'protocol/prefill/transfers.ts'

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
      ...inFile(peers, [`if (hello.to !== self.incarnation) {`, `if (hello.to === '') {`]),
      ...inFile('protocol/decode/sources.ts', [
        `if (link && link.incarnation !== rank.incarnation) replaceLink(step, link)`,
        ``,
      ]),
      ...inFile('protocol/decode/links.ts', [
        `if (known?.incarnation === rank.incarnation) {`,
        `if (known?.endpoint === rank.endpoint) {`,
      ]),
    ],
  },
  {
    name: 'stranger-at-the-address',
    invariant: 6,
    says: 'Decode takes what another process says at the same address for news of its peer.',
    edits: inFile(decodeStep, [
      `if (message.from !== link.incarnation) {`,
      `if (message.from === '') {`,
    ]),
  },
  {
    name: 'meant-for-another-prefill',
    invariant: 6,
    says: 'Prefill takes messages that are meant for an earlier process.',
    edits: inFile(prefillStep, [
      `if (message.to !== step.state.self.incarnation) {`,
      `if (message.to === '') {`,
    ]),
  },
  {
    name: 'another-generation-at-prefill',
    invariant: 6,
    says: "Prefill takes messages about decode's earlier engine.",
    edits: inFile(peers, [
      `if (gen !== undefined && gen !== peer.generation) {`,
      `if (gen === '') {`,
    ]),
  },
  {
    name: 'no-watermark',
    invariant: 6,
    says: 'Prefill takes a late reserve of an epoch that is over for a new one.',
    edits: inFile(transfers, [
      `const stale = message.ep <= peer.watermark`,
      `const stale = message.ep < 1`,
    ]),
  },
  {
    name: 'watermark-of-reserves-only',
    invariant: 6,
    says: 'Only a reserve moves the watermark: an abort that overtakes its reserve loses.',
    edits: inFile(transfers, [`  peer.watermark = Math.max(peer.watermark, epoch)\n`, ``]),
  },
  {
    name: 'watermark-not-of-hello',
    invariant: 6,
    says: 'A hello does not move the watermark of a peer that prefill knows.',
    edits: inFile(peers, [`known.watermark = Math.max(known.watermark, hello.epoch)`, ``]),
  },
  {
    name: 'watermark-forgotten',
    invariant: 6,
    says: 'A peer that was forgotten and is back begins without a watermark.',
    edits: inFile(peers, [`watermark: hello.epoch,`, `watermark: 0,`]),
  },
  {
    name: 'old-generation-goes-on',
    invariant: 6,
    says: 'Prefill goes on with the transfers of the generation that decode has closed.',
    edits: inFile(peers, [
      `failPeer(step, known, 'ERR_KVX_TRANSFER_FAILED', 'replaced its transfer engine')`,
      ``,
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
    edits: inFile(peers, [
      `      step.out.push({ do: 'closeLink', peer: known.incarnation, generation })\n    openLink(step, known)`,
      `      welcome(step, known)\n    else openLink(step, known)`,
    ]),
  },
  {
    name: 'epochs-used-again',
    invariant: 6,
    says: 'Decode numbers its epochs from 1 again when a connection is made again.',
    edits: inFile('protocol/decode/links.ts', [
      `  link.up = true\n`,
      `  link.up = true\n  step.state.epoch = 0\n`,
    ]),
  },
]
