/** What a stranger may cost. The simulator has no sockets: a flood of real ones looks for these. */
import { inFile, type Mutant } from './mutant.ts'

const gate = 'control/gate.ts'

export const strangers: readonly Mutant[] = [
  {
    name: 'strangers-without-limit',
    invariant: 7,
    by: 'flood',
    says: 'As many strangers as come stay connected.',
    edits: inFile(gate, [
      `this.#greeting.size < maxStrangers) return`,
      `this.#greeting.size >= 0) return`,
    ]),
  },
  {
    name: 'stranger-without-end',
    invariant: 7,
    by: 'flood',
    says: 'A stranger that says nothing stays connected for ever.',
    edits: inFile(gate, [`    }, this.#handshakeMs).unref()`, `    }, 2 ** 30).unref()`]),
  },
]
