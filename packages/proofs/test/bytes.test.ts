import { expect, test } from 'vitest'
import { tryBytes } from '../src/index.ts'

test('whatever the cache, the ranks, the pages and the chunks are, every byte is written once, from where it is, and nothing else', () => {
  const { cases, failure } = tryBytes({ cases: 3_000, seed: 20_261_129 })
  expect(failure?.text).toBe(undefined)
  expect(cases).toBe(3_000)
})
