import { expect, test } from 'vitest'
import { tryPromise } from '../src/index.ts'

/** Only against hanging: a quiet machine takes fifteen seconds. */
const timeout = 900_000

test(
  'whatever the cache, the ranks, the pages and the chunks are, every byte is written once, from where it is, and nothing else',
  { timeout },
  () => {
    const { cases, failure } = tryPromise({ promise: 'bytes', cases: 3_000, seed: 20_261_129 })
    expect(failure?.text).toBe(undefined)
    expect(cases).toBe(3_000)
  },
)
