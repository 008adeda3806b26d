/**
 * Vitest reporter that writes `{ passed, failed, skipped }` to the file named by KVX_TEST_COUNTS.
 * Whatever kept a test from running counts as a failure: a file that did not load, a hook that
 * threw, a test that never ended, an error that nobody caught.
 */
import { writeFileSync } from 'node:fs'

export default class Counts {
  onTestRunEnd(modules, unhandledErrors) {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 }
    for (const module of modules) {
      if (module.errors().length > 0) counts.failed += 1
      for (const suite of module.children.allSuites()) {
        if (suite.errors().length > 0) counts.failed += 1
      }
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        counts[state === 'pending' ? 'failed' : state] += 1
      }
    }
    const file = process.env.KVX_TEST_COUNTS
    if (file !== undefined) writeFileSync(file, JSON.stringify(counts))
  }
}
