import fc from 'fast-check'
import { expect, test } from 'vitest'
import { percentilesOf, quantile, slopeOf, spreadOf } from '../src/stats.ts'

test('a percentile is one of the numbers, and so many of them are not above it', () => {
  const numbers = fc.array(fc.integer({ min: -1_000, max: 1_000 }), { minLength: 1 })
  fc.assert(
    fc.property(numbers, fc.double({ min: 0, max: 1, noNaN: true }), (list, share) => {
      const sorted = [...list].sort((a, b) => a - b)
      const found = quantile(sorted, share)
      const notAbove = list.filter((one) => one <= found).length
      expect(list).toContain(found)
      expect(notAbove).toBeGreaterThanOrEqual(Math.ceil(share * list.length))
    }),
  )
})

test('the median of an even number of rounds lies between the middle two', () => {
  expect(spreadOf([4, 1, 9, 2])).toEqual({ median: 3, least: 1, most: 9 })
  expect(spreadOf([5, 1, 9])).toEqual({ median: 5, least: 1, most: 9 })
  expect(spreadOf([])).toBeUndefined()
})

test('percentiles do not depend on the order', () => {
  const list = Array.from({ length: 100 }, (_, i) => ((i * 37) % 100) + 1)
  expect(percentilesOf(list)).toEqual({
    ...{ count: 100, mean: 50.5, p50: 50, p90: 90, p99: 99, most: 100 },
  })
})

test('a slope is that of the line the points lie on, and 0 of one point', () => {
  expect(slopeOf([1, 4, 6, 11].map((x) => [x, 3 * x - 7]))).toBeCloseTo(3)
  expect(slopeOf([[5, 8]])).toBe(0)
})
