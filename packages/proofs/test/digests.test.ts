import { expect, test } from 'vitest'
import { tryPromise } from '../src/index.ts'

/** Only against hanging: a quiet machine takes ten seconds. */
const timeout = 900_000

test(
  'digests of both sides are equal for all bytes that have moved, add up to those of the whole cache, and name the layer of a byte that changes',
  { timeout },
  () => {
    const { cases, failure } = tryPromise({ promise: 'digests', cases: 300, seed: 20_261_129 })
    expect(failure?.text).toBe(undefined)
    expect(cases).toBe(300)
  },
)
