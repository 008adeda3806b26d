/** Would a cache or an answer that is not that of one process be noticed? */
import { expect, test } from 'vitest'
import {
  accuracyFindings,
  fill,
  placeOf,
  ranksOf,
  shapeOf,
  type AccuracyResult,
  type AccuracySample,
} from '../src/index.ts'
import { digestsOf } from '../src/accuracy/digest.ts'
import { isRight, questions } from '../src/accuracy/questions.ts'

const [tokens, pageTokens] = [40, 16]

function cacheIn(pages: readonly number[], order: 'NHD' | 'HDN') {
  const shape = shapeOf('llama-3.1-8b', { layers: 1 })
  const [rank] = ranksOf({}, 1)
  const { place, regionBytes } = placeOf(shape, rank!, { pageTokens, pages: 6, order })
  const memory = regionBytes.map((bytes) => new Uint8Array(bytes))
  const cache = { shape, rank: rank!, place, memory, pages: { kv: [...pages] } }
  fill(cache, { seed: 1, tokens })
  return cache
}

test('equal caches have equal digests, in whatever pages and order they lie', () => {
  const digests = digestsOf(cacheIn([0, 1, 2], 'NHD'), tokens)
  expect(Object.keys(digests)).toEqual(['kv layer 0 k', 'kv layer 0 v'])
  expect(digestsOf(cacheIn([5, 2, 3], 'HDN'), tokens)).toEqual(digests)
})

test('a byte of the cache changes the digest of its tensor alone, one behind its last token none', () => {
  const cache = cacheIn([4, 0, 2], 'NHD')
  const before = digestsOf(cache, tokens)
  const { base, pageBytes } = cache.place.tensors[1]!
  const [last, rowBytes] = [base + 2 * pageBytes, pageBytes / pageTokens]
  cache.memory[0]![last + 8 * rowBytes]! ^= 1
  expect(digestsOf(cache, tokens)).toEqual(before)
  cache.memory[0]![last + 8 * rowBytes - 1]! ^= 1
  const after = digestsOf(cache, tokens)
  expect(after['kv layer 0 k']).toBe(before['kv layer 0 k'])
  expect(after['kv layer 0 v']).not.toBe(before['kv layer 0 v'])
})

const sample = (contender: string, more: Partial<AccuracySample> = {}): AccuracySample => ({
  ...{ contender, prompt: 1, length: 9, temperature: 0, tokensEqual: true, cacheEqual: true },
  ...more,
})
const differs = { tokensEqual: false, cacheEqual: false }

test.each([
  ['all are equal and the control is not', [sample('shm'), sample('suppressed', differs)], true],
  [
    'an answer differs',
    [sample('shm', { tokensEqual: false }), sample('suppressed', differs)],
    false,
  ],
  ['a cache differs', [sample('shm', { cacheEqual: false }), sample('suppressed', differs)], false],
  ['a prompt is missing', [sample('suppressed', differs)], false],
  ['the control is equal too', [sample('shm'), sample('suppressed')], false],
  [
    'the control did not run',
    [sample('shm'), sample('suppressed', { ...differs, message: 'KvxError: …' })],
    false,
  ],
])('when %s, the run is good: %#', (_, samples, ok) => {
  const result: AccuracyResult = {
    ...{ prompts: 1, questions: 24, rightAlone: 1, samples },
    contenders: [{ name: 'shm' }, { name: 'suppressed' }],
  }
  expect(accuracyFindings(result, {}, false).ok).toBe(ok)
})

test('an answer is right when its first line is, whatever follows it', () => {
  const [france] = questions
  expect(isRight(france!, ' Paris.\n\nQuestion: ')).toBe(true)
  expect(isRight(france!, ' paris')).toBe(true)
  expect(isRight(france!, ' Parish')).toBe(false)
  expect(isRight(france!, '\n London\nParis')).toBe(false)
})
