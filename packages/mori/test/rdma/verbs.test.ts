/** MORI over real verbs: those of soft-RoCE, in the lab's guest, which boots in seconds and emulates. */
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
  what: 'killed' | 'restarted'
  code: string
  ms: number
  settledMs: number
  filling: number
}

/** The deadline of a write, which tells of a death that the device does not. */
const transferMs = 30_000

describe.skipIf(missing !== undefined)(
  `over rxe0${missing === undefined ? '' : ` (${missing})`}`,
  () => {
    let told: Told[] = []
    beforeAll(async () => {
      const names = chosen.map((name) => `plans: ${name}`)
      told = await tells<Told>([['conformance', ...names], ['kill']])
    }, 600_000)

    test.each(chosen)('conformance: plans: %s', (name) => {
      expect(told.find(({ check }) => check === name)).toMatchObject({ outcome: 'passed' })
    })

    test('decode is killed while bytes are on their way to it: the request fails in time and settles', () => {
      const killed = told.find(({ what }) => what === 'killed')
      expect(killed?.code).toMatch(/^ERR_KVX_(PEER_LOST|TRANSFER_FAILED)$/)
      expect(killed?.ms).toBeLessThan(transferMs)
      expect(killed?.settledMs).toBeLessThan(transferMs)
    })

    test('a decode that takes its place gets every byte of the next requests from the same prefill', () => {
      expect(told.find(({ what }) => what === 'restarted')).toMatchObject({ filling: 1 })
    })
  },
)
