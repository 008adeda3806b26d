/** Bytes that go elsewhere, twice, or nowhere: of plans, and of what is counted as moved. */
import { inFile, type Mutant } from './mutant.ts'

const groups = 'plan/group-list.ts'
const pairing = 'plan/pairing.ts'
const rows = 'plan/tensor-rows.ts'
const span = 'plan/span.ts'
const written = 'protocol/prefill/written.ts'

export const bytes: readonly Mutant[] = [
  {
    name: 'page-too-few',
    invariant: 8,
    says: 'A plan leaves out what follows the first page of a run.',
    edits: inFile(groups, [
      `this.#rows[count] = (this.#rows[count] ?? 0) + 1`,
      `this.#rows[count] = this.#rows[count] ?? 0`,
    ]),
  },
  {
    name: 'wrong-page',
    invariant: 8,
    says: 'A plan joins pages that are consecutive at prefill although they are not at decode.',
    edits: inFile(groups, [
      `if (source === this.#nextSource && destination === this.#nextDestination) {`,
      `if (source === this.#nextSource) {`,
    ]),
  },
  {
    name: 'wrong-page-after-prefix',
    invariant: 8,
    says: 'Destination pages are counted from the beginning of the prompt although they begin after the prefix.',
    edits: inFile(
      pairing,
      [
        `const firstTarget = spans.destinationOffset + spans.destination[0]`,
        `const firstTarget = spans.destinationOffset`,
      ],
      [
        `existing('destination', paired, provided(part, target + pair.destination)),`,
        `existing('destination', paired, provided(part, Math.min(target + pair.destination, part.destination.length - 1))),`,
      ],
    ),
  },
  {
    name: 'wrong-source-after-prefix',
    invariant: 8,
    says: 'Pages of a write from which those of the prefix were left out are taken for the first ones of its tokens.',
    edits: inFile(written, [`const first = all[1] - list.length`, `const first = all[0]`]),
  },
  {
    name: 'layer-too-many',
    invariant: 8,
    says: 'A write of a range of layers moves the layer after it as well.',
    edits: inFile(pairing, [
      `(kind.layers[end - 1] ?? 0) >= layers[1]`,
      `(kind.layers[end - 1] ?? 0) > layers[1]`,
    ]),
  },
  {
    name: 'head-range-too-small',
    invariant: 8,
    says: 'Of the units that two ranks share one is moved, however many they are.',
    edits: inFile(rows, [`{ count: units[1] - units[0], source`, `{ count: 1, source`]),
  },
  {
    name: 'head-offset-of-source',
    invariant: 8,
    says: 'Units are looked for at prefill by their number in the model, not in the rank.',
    edits: inFile(rows, [`(units[0] - source.held[0]) * from.unit`, `units[0] * from.unit`]),
  },
  {
    name: 'head-offset-of-destination',
    invariant: 8,
    says: 'Units land at the beginning of their row at decode, whichever they are.',
    edits: inFile(rows, [
      `strip.destination * to.row + (units[0] - destination.held[0]) * to.unit`,
      `strip.destination * to.row`,
    ]),
  },
  {
    name: 'stride-of-source',
    invariant: 8,
    says: 'Rows at decode are taken to be as far apart as at prefill.',
    edits: inFile(rows, [
      `{ count: strip.run, source: from.row, destination: to.row }`,
      `{ count: strip.run, source: from.row, destination: from.row }`,
    ]),
  },
  {
    name: 'conversion-of-order-lost',
    invariant: 8,
    says: 'A page is copied as it is into one that stores the elements of a unit apart.',
    edits: inFile(rows, [
      `from.element !== elementBytes(tensor) || to.element !== elementBytes(tensor)`,
      `from.element !== elementBytes(tensor)`,
    ]),
  },
  {
    name: 'window-too-short',
    invariant: 8,
    says: 'Of a sliding window the first token is not moved.',
    edits: inFile(span, [
      `const first = Math.max(0, tokens - (window ?? tokens))`,
      `const first = Math.max(0, tokens - (window ?? tokens + 1) + 1)`,
    ]),
  },
  {
    name: 'scale-row-lost',
    invariant: 8,
    says: 'Of rows that several tokens share the last one of a page is not moved.',
    edits: inFile('plan/component.ts', [
      `    run: strip.run / tokens,`,
      `    run: Math.max(1, strip.run / tokens - (tokens > 1 ? 1 : 0)),`,
    ]),
  },
  {
    name: 'page-size-of-source',
    invariant: 8,
    says: 'The pages of decode are counted as if they were as large as those of prefill.',
    edits: inFile(
      pairing,
      [
        `let target = ((at - inPeriod) / table.sourcePages) * table.destinationPages - firstTarget`,
        `let target = ((at - inPeriod) / table.sourcePages) * table.sourcePages - firstTarget`,
      ],
      [`target += table.destinationPages`, `target += table.sourcePages`],
    ),
  },
  {
    name: 'page-size-rounded-down',
    invariant: 8,
    says: 'A last page that is not full counts as none.',
    edits: inFile(span, [
      `return first < end ? [Math.floor(first / pageTokens), Math.ceil(end / pageTokens)] : [0, 0]`,
      `return first < end ? [Math.floor(first / pageTokens), Math.floor(end / pageTokens)] : [0, 0]`,
    ]),
  },
  {
    name: 'page-sent-before-it-is-full',
    invariant: 8,
    says: 'A write sends the page in the middle of which it ends, and so does the next.',
    edits: inFile(span, [
      `const whole = end === position(held, prompt) ? Math.ceil : Math.floor`,
      `const whole = end <= position(held, prompt) ? Math.ceil : Math.floor`,
    ]),
  },
  {
    name: 'prefix-rounded-up',
    invariant: 8,
    says: 'Decode rounds its prefix up to whole pages.',
    edits: inFile('protocol/decode/host.ts', [
      `Math.floor(event.prefixTokens / self.prefixBlock) * self.prefixBlock`,
      `Math.min(tokens, Math.ceil(event.prefixTokens / self.prefixBlock) * self.prefixBlock)`,
    ]),
  },
  {
    name: 'prefix-of-first-component',
    invariant: 8,
    says: 'The prefix is rounded to whole pages of the first component only.',
    edits: inFile(span, [
      `    block = lcm(block, spanOf(`,
      `    block = block > 1 ? block : lcm(block, spanOf(`,
    ]),
  },
  {
    name: 'units-counted-twice',
    invariant: 2,
    says: 'What a write has landed is counted twice where it moves several components.',
    edits: inFile('protocol/prefill/piece.ts', [
      `part.units += units`,
      `part.units += piece.parts.length > 1 ? 2 * units : units`,
    ]),
  },
  {
    name: 'state-without-a-layer',
    invariant: 2,
    says: 'A state of which one layer has been written counts as written.',
    edits: inFile(written, [
      `for (const layer of layers.sort((a, b) => a - b)) {`,
      `for (const layer of layers.sort((a, b) => a - b)) {\n      if (addressed === 'request' && written) continue`,
    ]),
  },
  {
    name: 'tokens-without-a-layer',
    invariant: 2,
    says: 'Tokens of which the first layer has been written count as written.',
    edits: inFile(written, [
      `for (const layer of layers.sort((a, b) => a - b)) {`,
      `for (const layer of layers.sort((a, b) => a - b).slice(0, addressed === 'request' ? undefined : 1)) {`,
    ]),
  },
]
