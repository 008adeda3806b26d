/**
 * The tests that every transfer engine must pass, for vitest.
 *
 * @packageDocumentation
 */
import { afterAll, describe, test } from 'vitest'
import type { ConformanceOptions, Fixture } from './fixture.ts'
import { Examination } from './run.ts'
import { suites } from './suites/index.ts'

export type { ConformanceOptions, DeviceWorkModule, Fixture, MemoryPlace } from './fixture.ts'

/** Longer than any check takes whose waits all end at their own deadlines. */
const timeout = 180_000

/**
 * Declares the tests of an engine: a `describe` for each suite. Call it at the top of a test file.
 *
 * @throws Error for a backend that is not found, or a skip that names no suite and no check, or gives no reason
 */
export function engineConformance(
  name: string,
  fixture: Fixture,
  options: ConformanceOptions = {},
): void {
  const examination = new Examination(fixture, options)
  describe(name, () => {
    afterAll(() => examination.close())
    for (const suite of suites) {
      describe(suite.name, () => {
        for (const check of suite.checks) {
          test(check.name, { timeout }, async (context) => {
            const reason = await examination.check(suite, check)
            if (reason !== undefined) context.skip(reason)
          })
        }
      })
    }
  })
}
