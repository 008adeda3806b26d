/** MORI over real verbs: those of soft-RoCE, in the lab's guest. Each guest takes seconds to boot, and emulates. */
import { beforeAll, describe, expect, test } from 'vitest'
import { missing, tells } from '../support/lab.ts'

/** Emulated, each check takes ten seconds: these show what crosses the device. All others run over the fake verbs. */
const chosen = [
  'one run',
  'several layers, K and V, of scattered pages',
  'the heads of one rank, out of pages with all heads',
  'several regions on both sides',
  'a run that is longer than the largest piece of the engine',
]

interface Told {
  suite: string
  check: string
  outcome: 'passed' | 'failed' | 'skipped'
  reason?: string
}

describe.skipIf(missing !== undefined)(
  `over rxe0${missing === undefined ? '' : ` (${missing})`}`,
  () => {
    describe('conformance', () => {
      let told: Told[] = []
      beforeAll(async () => {
        const names = chosen.map((name) => `plans: ${name}`)
        told = await tells<Told>('conformance', names)
      }, 600_000)

      test.each(chosen)('plans: %s', (name) => {
        expect(told.find(({ check }) => check === name)).toMatchObject({ outcome: 'passed' })
      })
    })
  },
)
