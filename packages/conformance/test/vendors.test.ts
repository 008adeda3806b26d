// The vendors' libraries in the versions that kvx installs by default. All their suites, and other versions: npm run test:versions.
import { runConformance, type Outcome } from '@kvx/conformance/run'
import { expect, test } from 'vitest'
import { engines } from './engines.mjs'

const exits = ['teardown: writing: a process that ends by process.exit']

test.each(['mooncake 0.3.13.post1', 'mori 1.2.4'])(
  '%s: a process may exit while it writes',
  { timeout: 120_000 },
  async (name) => {
    const engine = engines.find((one) => one.name === name)
    const outcomes: Outcome[] = await runConformance(await engine!.fixture(), { only: exits })
    expect(outcomes.map(({ outcome, reason }) => ({ outcome, reason }))).toEqual(
      exits.map(() => ({ outcome: 'passed' })),
    )
  },
)
